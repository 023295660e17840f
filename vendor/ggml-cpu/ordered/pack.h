#pragma once

// K and V of some cells as floats, in the order in which they are multiplied

#include "fetch.h"
#include "op.h"

#include "ggml-cpu.h"

#if defined(FATTN_ORDERED)

#if defined(__AVX2__) && defined(__F16C__)
// 8 rows of 16 F16 into 16 columns of 8 F32
static inline void transpose_f16_8x16(const ggml_fp16_t * const * src, int64_t i0, float * dst, int64_t stride) {
    __m256i r[8], a[8], b[8];
    for (int i = 0; i < 8; ++i) {
        r[i] = _mm256_loadu_si256((const __m256i *) (src[i] + i0));
    }
    for (int i = 0; i < 4; ++i) {
        a[2*i + 0] = _mm256_unpacklo_epi16(r[2*i], r[2*i + 1]);
        a[2*i + 1] = _mm256_unpackhi_epi16(r[2*i], r[2*i + 1]);
    }
    for (int i = 0; i < 2; ++i) {
        b[4*i + 0] = _mm256_unpacklo_epi32(a[4*i + 0], a[4*i + 2]);
        b[4*i + 1] = _mm256_unpackhi_epi32(a[4*i + 0], a[4*i + 2]);
        b[4*i + 2] = _mm256_unpacklo_epi32(a[4*i + 1], a[4*i + 3]);
        b[4*i + 3] = _mm256_unpackhi_epi32(a[4*i + 1], a[4*i + 3]);
    }
    for (int i = 0; i < 4; ++i) {
        const __m256i c0 = _mm256_unpacklo_epi64(b[i], b[4 + i]);
        const __m256i c1 = _mm256_unpackhi_epi64(b[i], b[4 + i]);

        _mm256_storeu_ps(dst + (2*i + 0)*stride, _mm256_cvtph_ps(_mm256_castsi256_si128(c0)));
        _mm256_storeu_ps(dst + (2*i + 1)*stride, _mm256_cvtph_ps(_mm256_castsi256_si128(c1)));
        _mm256_storeu_ps(dst + (2*i + 8)*stride, _mm256_cvtph_ps(_mm256_extracti128_si256(c0, 1)));
        _mm256_storeu_ps(dst + (2*i + 9)*stride, _mm256_cvtph_ps(_mm256_extracti128_si256(c1, 1)));
    }
}
#endif

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

// K of n cells as [DK][n_pad], zeros behind them
static void pack_k(const fattn_op & op, int64_t head, int64_t i3, const int32_t * cells, int64_t n, int64_t n_pad,
        float * rows, float * dst, const fattn_fetch & fetch) {
    const int64_t DK   = op.DK;
    const int64_t part = fetch.part(n_pad/8);

    for (int64_t j0 = 0; j0 < n_pad; j0 += 8) {
        const int64_t nj = std::max<int64_t>(0, std::min<int64_t>(8, n - j0));

        fetch.rows(j0/8*part, (j0/8 + 1)*part);

#if defined(__AVX2__) && defined(__F16C__)
        if (op.k->type == GGML_TYPE_F16 && nj == 8 && DK % 16 == 0) {
            const ggml_fp16_t * src[8];
            for (int j = 0; j < 8; ++j) {
                src[j] = (const ggml_fp16_t *) cell_data(op.k, cells[j0 + j], head, i3);
            }
            for (int64_t d = 0; d < DK; d += 16) {
                transpose_f16_8x16(src, d, dst + d*n_pad + j0, n_pad);
            }
            continue;
        }
#endif
        for (int64_t j = 0; j < nj; ++j) {
            row_to_f32(op.k->type, cell_data(op.k, cells[j0 + j], head, i3), rows + j*DK, DK);
        }
        memset(rows + nj*DK, 0, (8 - nj)*DK*sizeof(float));

        int64_t d = 0;
#if defined(__AVX__)
        for (; d + 8 <= DK; d += 8) {
            transpose_f32_8x8(rows + d, DK, dst + d*n_pad + j0, n_pad);
        }
#endif
        for (; d < DK; ++d) {
            for (int64_t j = 0; j < 8; ++j) {
                dst[d*n_pad + j0 + j] = rows[j*DK + d];
            }
        }
    }
}

// V of n cells as [n_pad][DV], zeros behind them
static void pack_v(const fattn_op & op, int64_t head, int64_t i3, const int32_t * cells, int64_t n, int64_t n_pad,
        float * dst, const fattn_fetch & fetch) {
    const int64_t part = fetch.part(n);

    for (int64_t j = 0; j < n; ++j) {
        fetch.rows(j*part, (j + 1)*part);
        row_to_f32(op.v->type, cell_data(op.v, cells[j], head, i3), dst + j*op.DV, op.DV);
    }
    memset(dst + n*op.DV, 0, (n_pad - n)*op.DV*sizeof(float));
}

#endif // FATTN_ORDERED
