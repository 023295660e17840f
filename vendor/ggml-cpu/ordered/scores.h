#pragma once

// scores of rows for cells whose K is widened in registers

#include "fetch.h"
#include "pack.h"
#include "widen.h"

#if defined(FATTN_WIDE)

// K of some cells, transposed
struct wide_keys {
    uint16_t * elements; // [group of cells][piece][16][WIDE]
    float    * scales;   // [group of cells][piece][WIDE]
    int64_t    n_pieces;
};

// n_pad cells, those behind n as zeros
template <typename K>
static void transpose_keys(const fattn_op & op, int64_t head, int64_t i3, const int32_t * cells, int64_t n, int64_t n_pad,
        const char * zeros, const wide_keys & keys) {
    for (int64_t j0 = 0; j0 < n_pad; j0 += WIDE) {
        const char * src[WIDE];
        for (int64_t j = 0; j < WIDE; ++j) {
            src[j] = j0 + j < n ? cell_data(op.k, cells[j0 + j], head, i3) : zeros;
        }
        for (int64_t i = 0; i < keys.n_pieces; ++i) {
            const int64_t piece = j0/WIDE*keys.n_pieces + i;

            transpose_16x16(src, i*K::PIECE + K::CODES, keys.elements + piece*16*WIDE);

            if constexpr (K::SCALED) {
                ggml_fp16_t scales[WIDE];
                for (int64_t j = 0; j < WIDE; ++j) {
                    scales[j] = *(const ggml_fp16_t *) (src[j] + i*K::PIECE);
                }
                _mm512_storeu_ps(keys.scales + piece*WIDE, widen_f16(scales));
            }
        }
    }
}

// RM rows and RN groups of cells: gemm()'s chain of FMAs.
template <typename K, int RM, int RN>
static void score_part(const float * Q, int64_t DK, const wide_keys & keys, int64_t group, float * P, int64_t n_pad,
        const fattn_fetch & fetch) {
    const int64_t    n_pieces = keys.n_pieces;
    const uint16_t * elements = keys.elements + group*n_pieces*16*WIDE;
    const float    * scales   = keys.scales   + group*n_pieces*WIDE;

    const int64_t part = fetch.part(2*n_pieces);

    __m512 acc[RM][RN];
    FATTN_UNROLL
    for (int i = 0; i < RM; ++i) {
        FATTN_UNROLL
        for (int r = 0; r < RN; ++r) {
            acc[i][r] = _mm512_setzero_ps();
        }
    }

    const float * q = Q;

    for (int64_t half = 0; half < 2*n_pieces; ++half) {
        const uint16_t * e = elements + half/2*16*WIDE + half%2*WIDE;

        fetch.rows(half*part, (half + 1)*part);

        __m512 scale[RN];
        FATTN_UNROLL
        for (int r = 0; r < RN; ++r) {
            scale[r] = K::SCALED ? _mm512_loadu_ps(scales + (r*n_pieces + half/2)*WIDE) : _mm512_setzero_ps();
        }

        for (int64_t c = 0; c < 8; ++c, e += 2*WIDE) {
            __m256i x[RN];
            FATTN_UNROLL
            for (int r = 0; r < RN; ++r) {
                x[r] = _mm256_loadu_si256((const __m256i *) (e + r*n_pieces*16*WIDE));
            }
            FATTN_UNROLL
            for (int p = 0; p < K::PER; ++p, ++q) {
                __m512 k[RN];
                FATTN_UNROLL
                for (int r = 0; r < RN; ++r) {
                    k[r] = K::widen(x[r], p, scale[r]);
                }
                FATTN_UNROLL
                for (int i = 0; i < RM; ++i) {
                    const __m512 qi = _mm512_set1_ps(q[i*DK]);
                    FATTN_UNROLL
                    for (int r = 0; r < RN; ++r) {
                        acc[i][r] = _mm512_fmadd_ps(k[r], qi, acc[i][r]);
                    }
                }
            }
        }
    }

    FATTN_UNROLL
    for (int i = 0; i < RM; ++i) {
        FATTN_UNROLL
        for (int r = 0; r < RN; ++r) {
            _mm512_storeu_ps(P + i*n_pad + (group + r)*WIDE, acc[i][r]);
        }
    }
}

// all rows and cells
template <typename K>
static void score_wide(const float * Q, int64_t DK, const wide_keys & keys, int64_t n_rows, float * P, int64_t n_pad,
        const fattn_fetch & fetch) {
    for_each_part<K::N_ROWS>(n_rows, n_pad/WIDE, [&](auto RM, auto RN, int64_t r, int64_t group) {
        score_part<K, RM, RN>(Q + r*DK, DK, keys, group, P + r*n_pad, n_pad, r == 0 && group == 0 ? fetch : fattn_fetch());
    });
}

#endif // FATTN_WIDE
