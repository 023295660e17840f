#pragma once

// types of K and V that are widened in registers, where they are multiplied: packed floats of them are never stored

#include "op.h"

#include <type_traits>

#if defined(FATTN_ORDERED)

#if defined(__AVX512F__) && defined(__AVX512BW__) && defined(__AVX512DQ__)
#define FATTN_WIDE
#endif

#if defined(FATTN_WIDE)

// of loops over registers: gcc keeps an array in memory for one loop that stays one
#if defined(__GNUC__)
#define FATTN_UNROLL _Pragma("GCC unroll 8")
#else
#define FATTN_UNROLL
#endif

// cells of K that stand side by side in a vector
static constexpr int64_t WIDE = 16;

// masked, since gcc 12 warns of _mm512_cvtph_ps()
static inline __m512 widen_f16(const void * p) {
    return _mm512_maskz_cvtph_ps(0xffff, _mm256_loadu_si256((const __m256i *) p));
}

// K is transposed in pieces of 32 bytes of a row, as 16 elements of 16 bits, and stored so. PER is the channels in an
//   element, PIECE the bytes from one piece to the next. the rest says how floats come of them
//   element e of a piece stands at WIDE*(2*(e%8) + e/8): see transpose_16x16()

struct wide_f16 {
    static constexpr int64_t N_ROWS = 6;  // as many as there are registers for, with 4 vectors of cells or channels
    static constexpr int64_t PER    = 1;
    static constexpr int64_t PIECE  = 32;
    static constexpr int64_t CODES  = 0;  // where the elements begin in a piece
    static constexpr bool    SCALED = false;

    static inline __m512 widen(__m256i x, int, __m512) {
        return _mm512_maskz_cvtph_ps(0xffff, x);
    }

    // RN vectors of channels from c on, a multiple of WIDE*RN
    template <int RN>
    static inline void load(const char * row, int64_t c, __m512 * v) {
        for (int r = 0; r < RN; ++r) {
            v[r] = widen_f16(row + 2*(c + WIDE*r));
        }
    }
};

struct wide_bf16 {
    static constexpr int64_t N_ROWS = 6;
    static constexpr int64_t PER    = 1;
    static constexpr int64_t PIECE  = 32;
    static constexpr int64_t CODES  = 0;
    static constexpr bool    SCALED = false;

    static inline __m512 widen(__m256i x, int, __m512) {
        return _mm512_castsi512_ps(_mm512_slli_epi32(_mm512_cvtepu16_epi32(x), 16));
    }

    template <int RN>
    static inline void load(const char * row, int64_t c, __m512 * v) {
        for (int r = 0; r < RN; ++r) {
            v[r] = widen(_mm256_loadu_si256((const __m256i *) (row + 2*(c + WIDE*r))), 0, __m512());
        }
    }
};

// blocks of 32 codes behind their scale: an element is a pair of codes
struct wide_q8_0 {
    static constexpr int64_t N_ROWS = 4;
    static constexpr int64_t PER    = 2;
    static constexpr int64_t PIECE  = 34;
    static constexpr int64_t CODES  = 2;
    static constexpr bool    SCALED = true;

    static inline __m512 widen(__m256i x, int i, __m512 scale) {
        const __m512i pair = _mm512_cvtepi16_epi32(x);
        const __m512i code = i == 0 ? _mm512_srai_epi32(_mm512_slli_epi32(pair, 24), 24) : _mm512_srai_epi32(pair, 8);

        return _mm512_mul_ps(_mm512_cvtepi32_ps(code), scale);
    }

    template <int RN>
    static inline void load(const char * row, int64_t c, __m512 * v) {
        for (int r = 0; r < RN; ++r) {
            const char * block = row + (c/32 + r/2)*PIECE;

            const __m512  scale = _mm512_set1_ps(GGML_CPU_FP16_TO_FP32(*(const ggml_fp16_t *) block));
            const __m512i codes = _mm512_cvtepi8_epi32(_mm_loadu_si128((const __m128i *) (block + CODES + r%2*16)));

            v[r] = _mm512_mul_ps(_mm512_cvtepi32_ps(codes), scale);
        }
    }
};

static bool is_wide(ggml_type type, int64_t n) {
    return type == GGML_TYPE_Q8_0 || ((type == GGML_TYPE_F16 || type == GGML_TYPE_BF16) && n % 16 == 0);
}

// call f with the type's struct
template <typename F>
static void with_wide(ggml_type type, F && f) {
    switch (type) {
        case GGML_TYPE_F16:  f(wide_f16());  break;
        case GGML_TYPE_BF16: f(wide_bf16()); break;
        default:             f(wide_q8_0()); break;
    }
}

// call f with constants: rows, and vectors of cells or channels
template <int RM, typename F>
static inline void with_vectors(int64_t rn, F && f) {
    switch (rn) {
        case 4:  f(std::integral_constant<int, RM>(), std::integral_constant<int, 4>()); break;
        case 2:  f(std::integral_constant<int, RM>(), std::integral_constant<int, 2>()); break;
        default: f(std::integral_constant<int, RM>(), std::integral_constant<int, 1>()); break;
    }
}

template <int RM, typename F>
static inline void with_rows(int64_t rm, int64_t rn, F && f) {
    if constexpr (RM > 1) {
        if (rm < RM) {
            with_rows<RM - 1>(rm, rn, f);
            return;
        }
    }
    with_vectors<RM>(rn, f);
}

// call f(rm, rn, row, vector) for all rows and vectors, in parts that there are registers for
template <int N_MAX, typename F>
static inline void for_each_part(int64_t n_rows, int64_t n_vectors, F && f) {
    for (int64_t r = 0; r < n_rows;) {
        const int64_t n_parts = (n_rows - r + N_MAX - 1)/N_MAX;
        const int64_t rm      = (n_rows - r + n_parts - 1)/n_parts;

        for (int64_t g = 0; g < n_vectors;) {
            const int64_t left = n_vectors - g;
            const int64_t rn   = left >= 4 ? 4 : left >= 2 ? 2 : 1;

            with_rows<N_MAX>(rm, rn, [&](auto RM, auto RN) {
                f(RM, RN, r, g);
            });
            g += rn;
        }
        r += rm;
    }
}

// 16 rows of 16 elements into 16 columns of 16
static inline void transpose_16x16(const char * const * src, int64_t offset, uint16_t * dst) {
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

#endif // FATTN_WIDE

#endif // FATTN_ORDERED
