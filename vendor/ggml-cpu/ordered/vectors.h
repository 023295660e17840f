#pragma once

// narrow elements as vectors of floats, and how pieces of rows are transposed: what each instruction set does its own way

#include "op.h"

#if defined(FATTN_ORDERED)

#if defined(__AVX512F__) && defined(__AVX512BW__) && defined(__AVX512DQ__)
#define FATTN_WIDE
#elif defined(__AVX2__) && defined(__FMA__) && defined(__F16C__) && !defined(__AVX512F__)
#define FATTN_WIDE
#elif defined(__ARM_NEON) && defined(__aarch64__)
#define FATTN_WIDE
#endif

#if defined(FATTN_WIDE)

// of loops over registers: gcc keeps an array in memory for one loop that stays one
#if defined(__GNUC__)
#define FATTN_UNROLL _Pragma("GCC unroll 8")
#else
#define FATTN_UNROLL
#endif

// floats of a vector
static constexpr int64_t WIDE = GGML_F32_EPR;

// K is transposed in pieces of 32 bytes of a row, as 16 elements of 16 bits, for N_CELLS cells at a time. element e of a
//   piece stands at N_CELLS*(2*(e%8) + e/8), as the instructions leave them
static constexpr int64_t N_ELEMENTS = 16;

#if defined(__AVX512F__)

static constexpr int64_t N_CELLS = 16;

// masked, since gcc 12 warns of _mm512_cvtph_ps()
static inline GGML_F32_VEC widen_f16(const void * p) {
    return _mm512_maskz_cvtph_ps(0xffff, _mm256_loadu_si256((const __m256i *) p));
}

static inline GGML_F32_VEC widen_bf16(const void * p) {
    return _mm512_castsi512_ps(_mm512_slli_epi32(_mm512_cvtepu16_epi32(_mm256_loadu_si256((const __m256i *) p)), 16));
}

static inline GGML_F32_VEC widen_i8(const void * p) {
    return _mm512_cvtepi32_ps(_mm512_cvtepi8_epi32(_mm_loadu_si128((const __m128i *) p)));
}

// the first or second of each pair
static inline GGML_F32_VEC widen_i8_pairs(const void * p, int i) {
    const __m512i pairs = _mm512_cvtepi16_epi32(_mm256_loadu_si256((const __m256i *) p));

    return _mm512_cvtepi32_ps(i == 0 ? _mm512_srai_epi32(_mm512_slli_epi32(pairs, 24), 24) : _mm512_srai_epi32(pairs, 8));
}

static inline void transpose_piece(const char * const * src, int64_t offset, uint16_t * dst) {
    const __m512i lo = _mm512_setr_epi64(0, 8, 4, 12, 2, 10, 6, 14);
    const __m512i hi = _mm512_setr_epi64(1, 9, 5, 13, 3, 11, 7, 15);

    __m512i r[8], a[8], b[8];
    for (int i = 0; i < 8; ++i) {
        r[i] = _mm512_inserti64x4(_mm512_castsi256_si512(_mm256_loadu_si256((const __m256i *) (src[i] + offset))),
            _mm256_loadu_si256((const __m256i *) (src[i + 8] + offset)), 1);
    }
    for (int i = 0; i < 4; ++i) {
        a[2*i + 0] = _mm512_unpacklo_epi16(r[2*i], r[2*i + 1]);
        a[2*i + 1] = _mm512_unpackhi_epi16(r[2*i], r[2*i + 1]);
    }
    for (int i = 0; i < 2; ++i) {
        b[4*i + 0] = _mm512_unpacklo_epi32(a[4*i + 0], a[4*i + 2]);
        b[4*i + 1] = _mm512_unpackhi_epi32(a[4*i + 0], a[4*i + 2]);
        b[4*i + 2] = _mm512_unpacklo_epi32(a[4*i + 1], a[4*i + 3]);
        b[4*i + 3] = _mm512_unpackhi_epi32(a[4*i + 1], a[4*i + 3]);
    }
    for (int i = 0; i < 4; ++i) {
        _mm512_storeu_si512(dst + 32*(2*i + 0), _mm512_permutex2var_epi64(b[i], lo, b[4 + i]));
        _mm512_storeu_si512(dst + 32*(2*i + 1), _mm512_permutex2var_epi64(b[i], hi, b[4 + i]));
    }
}

#elif defined(__AVX2__)

static constexpr int64_t N_CELLS = 8;

static inline GGML_F32_VEC widen_f16(const void * p) {
    return _mm256_cvtph_ps(_mm_loadu_si128((const __m128i *) p));
}

static inline GGML_F32_VEC widen_bf16(const void * p) {
    return _mm256_castsi256_ps(_mm256_slli_epi32(_mm256_cvtepu16_epi32(_mm_loadu_si128((const __m128i *) p)), 16));
}

static inline GGML_F32_VEC widen_i8(const void * p) {
    return _mm256_cvtepi32_ps(_mm256_cvtepi8_epi32(_mm_loadl_epi64((const __m128i *) p)));
}

static inline GGML_F32_VEC widen_i8_pairs(const void * p, int i) {
    const __m256i pairs = _mm256_cvtepi16_epi32(_mm_loadu_si128((const __m128i *) p));

    return _mm256_cvtepi32_ps(i == 0 ? _mm256_srai_epi32(_mm256_slli_epi32(pairs, 24), 24) : _mm256_srai_epi32(pairs, 8));
}

static inline void transpose_piece(const char * const * src, int64_t offset, uint16_t * dst) {
    __m256i r[8], a[8], b[8];
    for (int i = 0; i < 8; ++i) {
        r[i] = _mm256_loadu_si256((const __m256i *) (src[i] + offset));
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
        _mm256_storeu_si256((__m256i *) (dst + 16*(2*i + 0)), _mm256_unpacklo_epi64(b[i], b[4 + i]));
        _mm256_storeu_si256((__m256i *) (dst + 16*(2*i + 1)), _mm256_unpackhi_epi64(b[i], b[4 + i]));
    }
}

#else

static constexpr int64_t N_CELLS = 8; // of two vectors

static inline GGML_F32_VEC widen_f16(const void * p) {
    return vcvt_f32_f16(vreinterpret_f16_u16(vld1_u16((const uint16_t *) p)));
}

static inline GGML_F32_VEC widen_bf16(const void * p) {
    return vreinterpretq_f32_u32(vshll_n_u16(vld1_u16((const uint16_t *) p), 16));
}

static inline GGML_F32_VEC widen_i8(const void * p) {
    int32_t codes;
    memcpy(&codes, p, sizeof(codes));

    return vcvtq_f32_s32(vmovl_s16(vget_low_s16(vmovl_s8(vreinterpret_s8_s32(vdup_n_s32(codes))))));
}

static inline GGML_F32_VEC widen_i8_pairs(const void * p, int i) {
    const int16x4_t pairs = vld1_s16((const int16_t *) p);

    return vcvtq_f32_s32(vmovl_s16(vshr_n_s16(i == 0 ? vshl_n_s16(pairs, 8) : pairs, 8)));
}

static inline void transpose_piece(const char * const * src, int64_t offset, uint16_t * dst) {
    for (int h = 0; h < 2; ++h) {
        uint16x8_t a[8];
        uint32x4_t b[8];
        for (int i = 0; i < 4; ++i) {
            const uint16x8_t r0 = vreinterpretq_u16_u8(vld1q_u8((const uint8_t *) src[2*i + 0] + offset + 16*h));
            const uint16x8_t r1 = vreinterpretq_u16_u8(vld1q_u8((const uint8_t *) src[2*i + 1] + offset + 16*h));

            a[2*i + 0] = vzip1q_u16(r0, r1);
            a[2*i + 1] = vzip2q_u16(r0, r1);
        }
        for (int i = 0; i < 2; ++i) {
            for (int j = 0; j < 2; ++j) {
                b[4*i + 2*j + 0] = vzip1q_u32(vreinterpretq_u32_u16(a[4*i + j]), vreinterpretq_u32_u16(a[4*i + 2 + j]));
                b[4*i + 2*j + 1] = vzip2q_u32(vreinterpretq_u32_u16(a[4*i + j]), vreinterpretq_u32_u16(a[4*i + 2 + j]));
            }
        }
        for (int i = 0; i < 4; ++i) {
            const uint64x2_t lo = vreinterpretq_u64_u32(b[i]);
            const uint64x2_t hi = vreinterpretq_u64_u32(b[4 + i]);

            vst1q_u16(dst + 16*(2*i + 0) + 8*h, vreinterpretq_u16_u64(vzip1q_u64(lo, hi)));
            vst1q_u16(dst + 16*(2*i + 1) + 8*h, vreinterpretq_u16_u64(vzip2q_u64(lo, hi)));
        }
    }
}

#endif

#endif // FATTN_WIDE

#endif // FATTN_ORDERED
