#pragma once

// K and V of some cells as floats, in the order in which they are multiplied

#include "fetch.h"
#include "op.h"
#include "recode.h"
#include "widen.h"

#include "ggml-cpu.h"

#if defined(FATTN_ORDERED)

#if defined(__AVX__)
static inline void transpose_f32_8x8(const float * src, int64_t stride_src, float * dst, int64_t stride) {
    __m256 r[8], a[8], b[8];
    for (int i = 0; i < 8; ++i) {
        r[i] = _mm256_loadu_ps(src + i*stride_src);
    }
    for (int i = 0; i < 4; ++i) {
        a[2*i + 0] = _mm256_unpacklo_ps(r[2*i], r[2*i + 1]);
        a[2*i + 1] = _mm256_unpackhi_ps(r[2*i], r[2*i + 1]);
    }
    for (int i = 0; i < 2; ++i) {
        b[4*i + 0] = _mm256_shuffle_ps(a[4*i + 0], a[4*i + 2], 0x44);
        b[4*i + 1] = _mm256_shuffle_ps(a[4*i + 0], a[4*i + 2], 0xee);
        b[4*i + 2] = _mm256_shuffle_ps(a[4*i + 1], a[4*i + 3], 0x44);
        b[4*i + 3] = _mm256_shuffle_ps(a[4*i + 1], a[4*i + 3], 0xee);
    }
    for (int i = 0; i < 4; ++i) {
        _mm256_storeu_ps(dst + (i + 0)*stride, _mm256_permute2f128_ps(b[i], b[4 + i], 0x20));
        _mm256_storeu_ps(dst + (i + 4)*stride, _mm256_permute2f128_ps(b[i], b[4 + i], 0x31));
    }
}
#endif

static void row_to_f32(ggml_type type, const void * src, float * dst, int64_t n) {
    switch (type) {
        case GGML_TYPE_F32:  memcpy(dst, src, n*sizeof(float));                           break;
        case GGML_TYPE_F16:  ggml_cpu_fp16_to_fp32((const ggml_fp16_t *) src, dst, n);    break;
        case GGML_TYPE_BF16: ggml_cpu_bf16_to_fp32((const ggml_bf16_t *) src, dst, n);    break;
        default:             ggml_get_type_traits(type)->to_float(src, dst, n);           break;
    }
}

static const char * cell_data(const ggml_tensor * t, int64_t cell, int64_t head, int64_t i3) {
    return (const char *) t->data + cell*t->nb[1] + head*t->nb[2] + i3*t->nb[3];
}

#if defined(FATTN_WIDE)
// K of N_CELLS cells
template <typename K>
struct wide_group {
    const char * src[N_CELLS];

    wide_group(const fattn_rows & rows, int64_t j0, const char * zeros) {
        for (int64_t j = 0; j < N_CELLS; ++j) {
            src[j] = j0 + j < rows.n ? rows.row(j0 + j) : zeros;
        }
    }

    // piece i of their rows
    FATTN_INLINE void transpose(int64_t i, uint16_t * elements, float * scales) const {
        transpose_piece(src, i*K::PIECE + K::CODES, elements);

        if constexpr (K::SCALED) {
            ggml_fp16_t halves[N_CELLS];
            for (int64_t j = 0; j < N_CELLS; ++j) {
                halves[j] = *(const ggml_fp16_t *) (src[j] + i*K::PIECE);
            }
            for (int64_t j = 0; j < N_CELLS; j += WIDE) {
                GGML_F32_VEC_STORE(scales + j, widen_f16(halves + j));
            }
        }
    }
};

template <typename K>
static void pack_wide_k(const fattn_rows & rows, int64_t DK, const char * zeros, float * dst, const fattn_fetch & fetch) {
    const int64_t n_pad = rows.n_pad;
    const int64_t part  = fetch.part(n_pad/N_CELLS);

    for (int64_t j0 = 0; j0 < n_pad; j0 += N_CELLS) {
        fetch.rows(j0/N_CELLS*part, (j0/N_CELLS + 1)*part);

        const wide_group<K> group(rows, j0, zeros);

        float * to = dst + j0;

        for (int64_t i = 0; i < DK/(N_ELEMENTS*K::PER); ++i) {
            alignas(64) uint16_t elements[N_ELEMENTS*N_CELLS];
            alignas(64) float    scales[N_CELLS] = {};

            group.transpose(i, elements, scales);

            for (int64_t e = 0; e < N_ELEMENTS; ++e) {
                const uint16_t * from = elements + (2*(e%8) + e/8)*N_CELLS;

                for (int p = 0; p < K::PER; ++p, to += n_pad) {
                    for (int64_t j = 0; j < N_CELLS; j += WIDE) {
                        GGML_F32_VEC_STORE(to + j, K::widen(from + j, p, GGML_F32_VEC_LOAD(scales + j)));
                    }
                }
            }
        }
    }
}

template <typename T>
static void widen_row(const char * src, float * dst, int64_t n) {
    for (int64_t c = 0; c < n; c += 2*WIDE) {
        for (int r = 0; r < 2; ++r) {
            GGML_F32_VEC_STORE(dst + c + WIDE*r, T::template load<2>(src, c, r));
        }
    }
}
#endif

// K as [DK][n_pad]
static void pack_k(const fattn_rows & rows, int64_t DK, float * buffer, float * dst, const fattn_fetch & fetch) {
    const int64_t n_pad = rows.n_pad;

#if defined(FATTN_WIDE)
    if (is_wide(rows.type, DK)) {
        memset(buffer, 0, ggml_row_size(rows.type, DK));
        with_wide(rows.type, [&](auto type) {
            pack_wide_k<decltype(type)>(rows, DK, (const char *) buffer, dst, fetch);
        });
        return;
    }
#endif
    const int64_t part = fetch.part(n_pad/8);

    for (int64_t j0 = 0; j0 < n_pad; j0 += 8) {
        const int64_t nj = std::max<int64_t>(0, std::min<int64_t>(8, rows.n - j0));

        fetch.rows(j0/8*part, (j0/8 + 1)*part);

        for (int64_t j = 0; j < nj; ++j) {
            row_to_f32(rows.type, rows.row(j0 + j), buffer + j*DK, DK);
        }
        memset(buffer + nj*DK, 0, (8 - nj)*DK*sizeof(float));

        int64_t d = 0;
#if defined(__AVX__)
        for (; d + 8 <= DK; d += 8) {
            transpose_f32_8x8(buffer + d, DK, dst + d*n_pad + j0, n_pad);
        }
#endif
        for (; d < DK; ++d) {
            for (int64_t j = 0; j < 8; ++j) {
                dst[d*n_pad + j0 + j] = buffer[j*DK + d];
            }
        }
    }
}

// V as [n_pad][DV]
static void pack_v(const fattn_rows & rows, int64_t DV, float * dst, const fattn_fetch & fetch) {
    const int64_t part = fetch.part(rows.n);

    const auto for_each_row = [&](auto && f) {
        for (int64_t j = 0; j < rows.n; ++j) {
            fetch.rows(j*part, (j + 1)*part);
            f(rows.row(j), dst + j*DV);
        }
    };

    memset(dst + rows.n*DV, 0, (rows.n_pad - rows.n)*DV*sizeof(float));

#if defined(FATTN_WIDE)
    if (is_wide(rows.type, DV) && DV % (2*WIDE) == 0) {
        with_wide(rows.type, [&](auto type) {
            for_each_row([&](const char * src, float * to) { widen_row<decltype(type)>(src, to, DV); });
        });
        return;
    }
#endif
    for_each_row([&](const char * src, float * to) { row_to_f32(rows.type, src, to, DV); });
}

#endif // FATTN_ORDERED
