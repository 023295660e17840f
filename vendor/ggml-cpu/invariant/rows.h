#pragma once

// vectors with a lane for each of 16 rows of a matrix: 4 bytes or an integer of 32 bits, or a float

#include "ggml-impl.h"

#include <cstdint>
#include <cstring>

#if defined(__AVX512F__) && defined(__AVX512BW__) && defined(__AVX512DQ__) && defined(__AVX512VL__) && defined(__AVX512VNNI__)
#define INVARIANT_AVX512
#elif defined(__AVX2__) && defined(__FMA__) && defined(__F16C__)
#define INVARIANT_AVX2
#elif defined(__ARM_NEON) && defined(__aarch64__) && defined(__ARM_FEATURE_DOTPROD) && !defined(_MSC_VER)
#define INVARIANT_NEON
#endif

#if defined(INVARIANT_AVX512) || defined(INVARIANT_AVX2) || defined(INVARIANT_NEON)
#define INVARIANT
#endif

#if defined(INVARIANT)

#if defined(INVARIANT_NEON)
#include <arm_neon.h>
#else
#include <immintrin.h>
#endif

#if defined(__GNUC__)
#define INVARIANT_UNROLL _Pragma("GCC unroll 16")
#else
#define INVARIANT_UNROLL
#endif

static constexpr int N_ROWS = 16;

#if defined(INVARIANT_AVX512)

typedef __m512i rows_t;
typedef __m512  rowsf_t;

static inline rows_t rows_load (const void * p)          { return _mm512_loadu_si512(p); }
static inline rows_t rows_load_u16(const void * p)       { return _mm512_cvtepu16_epi32(_mm256_loadu_si256((const __m256i *) p)); }
static inline rows_t rows_load_u8 (const void * p)       { return _mm512_cvtepu8_epi32(_mm_loadu_si128((const __m128i *) p)); }
static inline void   rows_store(void * p, rows_t x)      { _mm512_store_si512(p, x); }
static inline rows_t rows_set8 (uint8_t x)               { return _mm512_set1_epi8(x); }
static inline rows_t rows_set32(uint32_t x)              { return _mm512_set1_epi32(x); }
static inline rows_t rows_add  (rows_t a, rows_t b)      { return _mm512_add_epi32(a, b); }
static inline rows_t rows_and  (rows_t a, rows_t b)      { return _mm512_and_si512(a, b); }
static inline rows_t rows_or   (rows_t a, rows_t b)      { return _mm512_or_si512(a, b); }
static inline rows_t rows_xor  (rows_t a, rows_t b)      { return _mm512_xor_si512(a, b); }
static inline rows_t rows_shr  (rows_t a, int n)         { return _mm512_srli_epi32(a, n); }
static inline rows_t rows_shl  (rows_t a, int n)         { return _mm512_slli_epi32(a, n); }
static inline rows_t rows_sar  (rows_t a, int n)         { return _mm512_srai_epi32(a, n); }

static inline rows_t rows_lookup(const int8_t * table, rows_t idxs) {
    return _mm512_shuffle_epi8(_mm512_broadcast_i32x4(_mm_loadu_si128((const __m128i *) table)), idxs);
}

// bits 4*i to 4*i + 3, one in each byte, as 16
static inline rows_t rows_spread_bits(rows_t bits, int i) {
    const __m512i table = _mm512_setr_epi32(
            0x00000000, 0x00000010, 0x00001000, 0x00001010, 0x00100000, 0x00100010, 0x00101000, 0x00101010,
            0x10000000, 0x10000010, 0x10001000, 0x10001010, 0x10100000, 0x10100010, 0x10101000, 0x10101010);
    return _mm512_permutexvar_epi32(_mm512_srli_epi32(bits, 4*i), table);
}

// 16 bytes of each row, 4 in each vector
static inline void rows_transpose(const char * const * rows, size_t offset, rows_t * out) {
    __m512i x[4];
    for (int i = 0; i < 4; ++i) {
        const auto at = [&](int r) { return _mm_loadu_si128((const __m128i *) (rows[r] + offset)); };

        x[i] = _mm512_castsi128_si512(at(i));
        x[i] = _mm512_mask_broadcast_i32x4(x[i], 0x00f0, at(i +  4));
        x[i] = _mm512_mask_broadcast_i32x4(x[i], 0x0f00, at(i +  8));
        x[i] = _mm512_mask_broadcast_i32x4(x[i], 0xf000, at(i + 12));
    }

    const __m512i lo01 = _mm512_unpacklo_epi32(x[0], x[1]);
    const __m512i hi01 = _mm512_unpackhi_epi32(x[0], x[1]);
    const __m512i lo23 = _mm512_unpacklo_epi32(x[2], x[3]);
    const __m512i hi23 = _mm512_unpackhi_epi32(x[2], x[3]);

    out[0] = _mm512_unpacklo_epi64(lo01, lo23);
    out[1] = _mm512_unpackhi_epi64(lo01, lo23);
    out[2] = _mm512_unpacklo_epi64(hi01, hi23);
    out[3] = _mm512_unpackhi_epi64(hi01, hi23);
}

static inline rowsf_t rowsf_load (const float * p)         { return _mm512_load_ps(p); }
static inline void    rowsf_store(float * p, rowsf_t x)    { _mm512_store_ps(p, x); }
static inline rowsf_t rowsf_mul  (rowsf_t a, rowsf_t b)    { return _mm512_mul_ps(a, b); }
static inline rowsf_t rowsf_from_i32(rows_t x)             { return _mm512_cvtepi32_ps(x); }
static inline rowsf_t rowsf_from_f16(rows_t x)             { return _mm512_cvtph_ps(_mm512_cvtepi32_epi16(x)); }

#elif defined(INVARIANT_AVX2)

struct rows_t  { __m256i x[2]; };
struct rowsf_t { __m256  x[2]; };

template <typename F> static inline rows_t rows_map(F f) { return {{ f(0), f(1) }}; }

static inline rows_t rows_load(const void * p) {
    return rows_map([&](int i) { return _mm256_loadu_si256((const __m256i *) p + i); });
}

static inline rows_t rows_load_u16(const void * p) {
    return rows_map([&](int i) { return _mm256_cvtepu16_epi32(_mm_loadu_si128((const __m128i *) p + i)); });
}

static inline rows_t rows_load_u8(const void * p) {
    return rows_map([&](int i) { return _mm256_cvtepu8_epi32(_mm_loadl_epi64((const __m128i *) ((const char *) p + 8*i))); });
}

static inline void rows_store(void * p, rows_t x) {
    _mm256_store_si256((__m256i *) p + 0, x.x[0]);
    _mm256_store_si256((__m256i *) p + 1, x.x[1]);
}

static inline rows_t rows_set8(uint8_t x)          { return rows_map([&](int  ) { return _mm256_set1_epi8(x); }); }
static inline rows_t rows_set32(uint32_t x)        { return rows_map([&](int  ) { return _mm256_set1_epi32(x); }); }
static inline rows_t rows_add (rows_t a, rows_t b) { return rows_map([&](int i) { return _mm256_add_epi32(a.x[i], b.x[i]); }); }
static inline rows_t rows_and (rows_t a, rows_t b) { return rows_map([&](int i) { return _mm256_and_si256(a.x[i], b.x[i]); }); }
static inline rows_t rows_or  (rows_t a, rows_t b) { return rows_map([&](int i) { return _mm256_or_si256(a.x[i], b.x[i]); }); }
static inline rows_t rows_xor (rows_t a, rows_t b) { return rows_map([&](int i) { return _mm256_xor_si256(a.x[i], b.x[i]); }); }
static inline rows_t rows_shr (rows_t a, int n)    { return rows_map([&](int i) { return _mm256_srli_epi32(a.x[i], n); }); }
static inline rows_t rows_shl (rows_t a, int n)    { return rows_map([&](int i) { return _mm256_slli_epi32(a.x[i], n); }); }
static inline rows_t rows_sar (rows_t a, int n)    { return rows_map([&](int i) { return _mm256_srai_epi32(a.x[i], n); }); }

static inline rows_t rows_lookup(const int8_t * table, rows_t idxs) {
    const __m256i t = _mm256_broadcastsi128_si256(_mm_loadu_si128((const __m128i *) table));
    return rows_map([&](int i) { return _mm256_shuffle_epi8(t, idxs.x[i]); });
}

static inline rows_t rows_spread_bits(rows_t bits, int i) {
    const int     byte = 0x01010101*(i/2);
    const __m256i from = _mm256_setr_epi32(
            byte, byte + 0x04040404, byte + 0x08080808, byte + 0x0c0c0c0c,
            byte, byte + 0x04040404, byte + 0x08080808, byte + 0x0c0c0c0c);
    const __m256i bit  = _mm256_set1_epi32(i % 2 == 0 ? 0x08040201 : 0x80402010);
    return rows_map([&](int h) {
        const __m256i has = _mm256_and_si256(_mm256_shuffle_epi8(bits.x[h], from), bit);
        return _mm256_and_si256(_mm256_cmpeq_epi8(has, bit), _mm256_set1_epi8(16));
    });
}

static inline void rows_transpose(const char * const * rows, size_t offset, rows_t * out) {
    for (int h = 0; h < 2; ++h) {
        __m256i x[4];
        for (int i = 0; i < 4; ++i) {
            const auto at = [&](int r) { return _mm_loadu_si128((const __m128i *) (rows[8*h + r] + offset)); };
            x[i] = _mm256_inserti128_si256(_mm256_castsi128_si256(at(i)), at(i + 4), 1);
        }

        const __m256i lo01 = _mm256_unpacklo_epi32(x[0], x[1]);
        const __m256i hi01 = _mm256_unpackhi_epi32(x[0], x[1]);
        const __m256i lo23 = _mm256_unpacklo_epi32(x[2], x[3]);
        const __m256i hi23 = _mm256_unpackhi_epi32(x[2], x[3]);

        out[0].x[h] = _mm256_unpacklo_epi64(lo01, lo23);
        out[1].x[h] = _mm256_unpackhi_epi64(lo01, lo23);
        out[2].x[h] = _mm256_unpacklo_epi64(hi01, hi23);
        out[3].x[h] = _mm256_unpackhi_epi64(hi01, hi23);
    }
}

static inline rowsf_t rowsf_load(const float * p) { return {{ _mm256_load_ps(p), _mm256_load_ps(p + 8) }}; }

static inline void rowsf_store(float * p, rowsf_t x) {
    _mm256_store_ps(p + 0, x.x[0]);
    _mm256_store_ps(p + 8, x.x[1]);
}

static inline rowsf_t rowsf_mul(rowsf_t a, rowsf_t b) {
    return {{ _mm256_mul_ps(a.x[0], b.x[0]), _mm256_mul_ps(a.x[1], b.x[1]) }};
}

static inline rowsf_t rowsf_from_i32(rows_t x) {
    return {{ _mm256_cvtepi32_ps(x.x[0]), _mm256_cvtepi32_ps(x.x[1]) }};
}

static inline rowsf_t rowsf_from_f16(rows_t x) {
    const __m256i low = _mm256_set1_epi32(0xffff);
    const __m256i all = _mm256_permute4x64_epi64(
            _mm256_packus_epi32(_mm256_and_si256(x.x[0], low), _mm256_and_si256(x.x[1], low)), 0xd8);
    return {{ _mm256_cvtph_ps(_mm256_castsi256_si128(all)), _mm256_cvtph_ps(_mm256_extracti128_si256(all, 1)) }};
}

#elif defined(INVARIANT_NEON)

struct rows_t  { uint32x4_t  x[4]; };
struct rowsf_t { float32x4_t x[4]; };

template <typename F> static inline rows_t rows_map(F f) { return {{ f(0), f(1), f(2), f(3) }}; }

static inline rows_t rows_load(const void * p) {
    return rows_map([&](int i) { return vreinterpretq_u32_u8(vld1q_u8((const uint8_t *) p + 16*i)); });
}

static inline rows_t rows_load_u16(const void * p) {
    return rows_map([&](int i) { return vmovl_u16(vld1_u16((const uint16_t *) p + 4*i)); });
}

static inline rows_t rows_load_u8(const void * p) {
    const uint8x16_t x    = vld1q_u8((const uint8_t *) p);
    const uint16x8_t lo   = vmovl_u8(vget_low_u8(x));
    const uint16x8_t hi   = vmovl_u8(vget_high_u8(x));
    return {{ vmovl_u16(vget_low_u16(lo)), vmovl_u16(vget_high_u16(lo)), vmovl_u16(vget_low_u16(hi)), vmovl_u16(vget_high_u16(hi)) }};
}

static inline void rows_store(void * p, rows_t x) {
    for (int i = 0; i < 4; ++i) {
        vst1q_u8((uint8_t *) p + 16*i, vreinterpretq_u8_u32(x.x[i]));
    }
}

static inline rows_t rows_set8(uint8_t x)          { return rows_map([&](int  ) { return vreinterpretq_u32_u8(vdupq_n_u8(x)); }); }
static inline rows_t rows_set32(uint32_t x)        { return rows_map([&](int  ) { return vdupq_n_u32(x); }); }
static inline rows_t rows_add (rows_t a, rows_t b) { return rows_map([&](int i) { return vaddq_u32(a.x[i], b.x[i]); }); }
static inline rows_t rows_and (rows_t a, rows_t b) { return rows_map([&](int i) { return vandq_u32(a.x[i], b.x[i]); }); }
static inline rows_t rows_or  (rows_t a, rows_t b) { return rows_map([&](int i) { return vorrq_u32(a.x[i], b.x[i]); }); }
static inline rows_t rows_xor (rows_t a, rows_t b) { return rows_map([&](int i) { return veorq_u32(a.x[i], b.x[i]); }); }
static inline rows_t rows_shr (rows_t a, int n)    { return rows_map([&](int i) { return vshlq_u32(a.x[i], vdupq_n_s32(-n)); }); }
static inline rows_t rows_shl (rows_t a, int n)    { return rows_map([&](int i) { return vshlq_u32(a.x[i], vdupq_n_s32(n)); }); }
static inline rows_t rows_sar (rows_t a, int n) {
    return rows_map([&](int i) { return vreinterpretq_u32_s32(vshlq_s32(vreinterpretq_s32_u32(a.x[i]), vdupq_n_s32(-n))); });
}

static inline rows_t rows_lookup(const int8_t * table, rows_t idxs) {
    const int8x16_t t = vld1q_s8(table);
    return rows_map([&](int i) { return vreinterpretq_u32_s8(vqtbl1q_s8(t, vreinterpretq_u8_u32(idxs.x[i]))); });
}

static inline rows_t rows_spread_bits(rows_t bits, int i) {
    const uint32_t   byte    = 0x01010101u*(i/2);
    const uint32_t   from[4] = { byte, byte + 0x04040404u, byte + 0x08080808u, byte + 0x0c0c0c0cu };
    const uint8x16_t idxs    = vreinterpretq_u8_u32(vld1q_u32(from));
    const uint8x16_t bit     = vreinterpretq_u8_u32(vdupq_n_u32(i % 2 == 0 ? 0x08040201u : 0x80402010u));
    return rows_map([&](int h) {
        const uint8x16_t has = vtstq_u8(vqtbl1q_u8(vreinterpretq_u8_u32(bits.x[h]), idxs), bit);
        return vreinterpretq_u32_u8(vandq_u8(has, vdupq_n_u8(16)));
    });
}

static inline void rows_transpose(const char * const * rows, size_t offset, rows_t * out) {
    for (int h = 0; h < 4; ++h) {
        uint32x4_t x[4];
        for (int i = 0; i < 4; ++i) {
            x[i] = vreinterpretq_u32_u8(vld1q_u8((const uint8_t *) rows[4*h + i] + offset));
        }

        const uint64x2_t lo01 = vreinterpretq_u64_u32(vzip1q_u32(x[0], x[1]));
        const uint64x2_t hi01 = vreinterpretq_u64_u32(vzip2q_u32(x[0], x[1]));
        const uint64x2_t lo23 = vreinterpretq_u64_u32(vzip1q_u32(x[2], x[3]));
        const uint64x2_t hi23 = vreinterpretq_u64_u32(vzip2q_u32(x[2], x[3]));

        out[0].x[h] = vreinterpretq_u32_u64(vzip1q_u64(lo01, lo23));
        out[1].x[h] = vreinterpretq_u32_u64(vzip2q_u64(lo01, lo23));
        out[2].x[h] = vreinterpretq_u32_u64(vzip1q_u64(hi01, hi23));
        out[3].x[h] = vreinterpretq_u32_u64(vzip2q_u64(hi01, hi23));
    }
}

template <typename F> static inline rowsf_t rowsf_map(F f) { return {{ f(0), f(1), f(2), f(3) }}; }

static inline rowsf_t rowsf_load(const float * p) { return rowsf_map([&](int i) { return vld1q_f32(p + 4*i); }); }

static inline void rowsf_store(float * p, rowsf_t x) {
    for (int i = 0; i < 4; ++i) {
        vst1q_f32(p + 4*i, x.x[i]);
    }
}

static inline rowsf_t rowsf_mul(rowsf_t a, rowsf_t b) { return rowsf_map([&](int i) { return vmulq_f32(a.x[i], b.x[i]); }); }
static inline rowsf_t rowsf_from_i32(rows_t x) {
    return rowsf_map([&](int i) { return vcvtq_f32_s32(vreinterpretq_s32_u32(x.x[i])); });
}
static inline rowsf_t rowsf_from_f16(rows_t x) {
    return rowsf_map([&](int i) { return vcvt_f32_f16(vreinterpret_f16_u16(vmovn_u32(x.x[i]))); });
}

#endif

#endif // INVARIANT
