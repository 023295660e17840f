#pragma once

// scores of rows for cells

#include "fetch.h"
#include "gemm.h"
#include "pack.h"
#include "widen.h"

#if defined(FATTN_ORDERED)

#if defined(FATTN_WIDE)

// K of some cells, transposed
struct wide_keys {
    uint16_t * elements; // [group of cells][piece][N_ELEMENTS][N_CELLS]
    float    * scales;   // [group of cells][piece][N_CELLS]
    int64_t    n_pieces;

    // vector r of those that begin at the first one of a group, or at any if a group is one
    static int64_t offset(int64_t r, int64_t n) { return r*WIDE/N_CELLS*n + r*WIDE%N_CELLS; }
};

template <typename K>
static void transpose_keys(const fattn_rows & rows, const char * zeros, const wide_keys & keys) {
    for (int64_t j0 = 0; j0 < rows.n_pad; j0 += N_CELLS) {
        const wide_group<K> group(rows, j0, zeros);

        for (int64_t i = 0; i < keys.n_pieces; ++i) {
            const int64_t piece = j0/N_CELLS*keys.n_pieces + i;

            group.transpose(i, keys.elements + piece*N_ELEMENTS*N_CELLS, keys.scales + piece*N_CELLS);
        }
    }
}

// RM rows and RN vectors of cells: gemm()'s chain of FMAs.
template <typename K, int RM, int RN>
static void score_part(const float * Q, int64_t DK, const wide_keys & keys, int64_t vector, float * P, int64_t n_pad,
        const fattn_fetch & fetch) {
    const int64_t part = fetch.part(2*keys.n_pieces);

    GGML_F32_VEC acc[RM][RN];
    FATTN_UNROLL
    for (int i = 0; i < RM; ++i) {
        FATTN_UNROLL
        for (int r = 0; r < RN; ++r) {
            acc[i][r] = GGML_F32_VEC_SET1(0.0f);
        }
    }

    const uint16_t * elements = keys.elements + vector*WIDE*keys.n_pieces*N_ELEMENTS;
    const float    * scales   = keys.scales   + vector*WIDE*keys.n_pieces;

    const float * q = Q;

    for (int64_t half = 0; half < 2*keys.n_pieces; ++half) {
        fetch.rows(half*part, (half + 1)*part);

        const uint16_t * e = elements + (half/2*N_ELEMENTS + half%2)*N_CELLS;

        GGML_F32_VEC scale[RN];
        FATTN_UNROLL
        for (int r = 0; r < RN; ++r) {
            scale[r] = K::SCALED ? GGML_F32_VEC_LOAD(scales + half/2*N_CELLS + keys.offset(r, keys.n_pieces*N_CELLS)) :
                GGML_F32_VEC_SET1(0.0f);
        }

        for (int64_t c = 0; c < 8; ++c, e += 2*N_CELLS) {
            FATTN_UNROLL
            for (int p = 0; p < K::PER; ++p, ++q) {
                GGML_F32_VEC k[RN];
                FATTN_UNROLL
                for (int r = 0; r < RN; ++r) {
                    k[r] = K::widen(e + keys.offset(r, keys.n_pieces*N_ELEMENTS*N_CELLS), p, scale[r]);
                }
                FATTN_UNROLL
                for (int i = 0; i < RM; ++i) {
                    const GGML_F32_VEC qi = GGML_F32_VEC_SET1(q[i*DK]);
                    FATTN_UNROLL
                    for (int r = 0; r < RN; ++r) {
                        acc[i][r] = GGML_F32_VEC_FMA(acc[i][r], k[r], qi);
                    }
                }
            }
        }
    }

    FATTN_UNROLL
    for (int i = 0; i < RM; ++i) {
        FATTN_UNROLL
        for (int r = 0; r < RN; ++r) {
            GGML_F32_VEC_STORE(P + i*n_pad + (vector + r)*WIDE, acc[i][r]);
        }
    }
}

// all rows and cells
template <typename K>
static void score_wide(const float * Q, int64_t DK, const wide_keys & keys, int64_t n_rows, float * P, int64_t n_pad,
        const fattn_fetch & fetch) {
    for_each_part<K::N_ROWS>(n_rows, n_pad/WIDE, [&](auto RM, auto RN, int64_t r, int64_t vector) {
        score_part<K, RM, RN>(Q + r*DK, DK, keys, vector, P + r*n_pad, n_pad, r == 0 && vector == 0 ? fetch : fattn_fetch());
    });
}

#endif // FATTN_WIDE

// rows of Q times keys, as [n_rows][n_pad]. KT has room for the keys as floats, buffer for 8 of them
static void score_rows(const fattn_rows & keys, const float * Q, int64_t DK, int64_t n_rows, float * buffer, float * KT,
        float * P, const fattn_fetch & fetch) {
#if defined(FATTN_WIDE)
    if (is_wide(keys.type, DK) && is_few(keys.type, n_rows)) {
        memset(buffer, 0, ggml_row_size(keys.type, DK));

        with_wide(keys.type, [&](auto type) {
            using K = decltype(type);

            // elements take half of the room for floats, or less
            const wide_keys wide { (uint16_t *) KT, KT + N_SUB*DK/2, DK/(N_ELEMENTS*K::PER) };

            transpose_keys<K>(keys, (const char *) buffer, wide);
            score_wide<K>(Q, DK, wide, n_rows, P, keys.n_pad, fetch);
        });
        return;
    }
#endif
    pack_k(keys, DK, buffer, KT, fetch);
    memset(P, 0, n_rows*keys.n_pad*sizeof(float));
    gemm(P, Q, KT, n_rows, DK, keys.n_pad);
}

#endif // FATTN_ORDERED
