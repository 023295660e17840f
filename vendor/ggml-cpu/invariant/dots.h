#pragma once

// dot products of rows of floats
//
// an element of the result is the sum of chains of FMAs, one for each lane of a vector, that are joined in a fixed order, and
// of a chain over the columns that are left. the tiles differ in what they read again, not in what they compute

#include "rows.h"

#if defined(INVARIANT)

#include "ggml-cpu-impl.h"
#include "simd-mappings.h"

#include <algorithm>
#include <cmath>
#include <type_traits>

static constexpr int N_DOT_ROWS = 4;

#if defined(INVARIANT_AVX512)

typedef __m512 dots_t;

static constexpr int N_DOT_COLS_MAX = 6;

static inline dots_t dots_zero()                              { return _mm512_setzero_ps(); }
static inline dots_t dots_add (dots_t a, dots_t b)            { return _mm512_add_ps(a, b); }
static inline dots_t dots_fma (dots_t a, dots_t b, dots_t c)  { return _mm512_fmadd_ps(a, b, c); }
static inline dots_t dots_load(const float * p)               { return _mm512_loadu_ps(p); }
static inline dots_t dots_load(const ggml_fp16_t * p)         { return _mm512_cvtph_ps(_mm256_loadu_si256((const __m256i *) p)); }
static inline dots_t dots_load(const ggml_bf16_t * p) {
    return _mm512_castsi512_ps(_mm512_slli_epi32(_mm512_cvtepu16_epi32(_mm256_loadu_si256((const __m256i *) p)), 16));
}

static inline void dots_store_sums(float * out, dots_t a, dots_t b, dots_t c, dots_t d) {
    const __m512d ab   = _mm512_castps_pd(_mm512_add_ps(_mm512_unpacklo_ps(a, b), _mm512_unpackhi_ps(a, b)));
    const __m512d cd   = _mm512_castps_pd(_mm512_add_ps(_mm512_unpacklo_ps(c, d), _mm512_unpackhi_ps(c, d)));
    const __m512  abcd = _mm512_add_ps(_mm512_castpd_ps(_mm512_unpacklo_pd(ab, cd)), _mm512_castpd_ps(_mm512_unpackhi_pd(ab, cd)));
    const __m256  half = _mm256_add_ps(_mm512_castps512_ps256(abcd), _mm512_extractf32x8_ps(abcd, 1));
    _mm_storeu_ps(out, _mm_add_ps(_mm256_castps256_ps128(half), _mm256_extractf128_ps(half, 1)));
}

#elif defined(INVARIANT_AVX2)

typedef __m256 dots_t;

static constexpr int N_DOT_COLS_MAX = 3;

static inline dots_t dots_zero()                              { return _mm256_setzero_ps(); }
static inline dots_t dots_add (dots_t a, dots_t b)            { return _mm256_add_ps(a, b); }
static inline dots_t dots_fma (dots_t a, dots_t b, dots_t c)  { return _mm256_fmadd_ps(a, b, c); }
static inline dots_t dots_load(const float * p)               { return _mm256_loadu_ps(p); }
static inline dots_t dots_load(const ggml_fp16_t * p)         { return _mm256_cvtph_ps(_mm_loadu_si128((const __m128i *) p)); }
static inline dots_t dots_load(const ggml_bf16_t * p) {
    return _mm256_castsi256_ps(_mm256_slli_epi32(_mm256_cvtepu16_epi32(_mm_loadu_si128((const __m128i *) p)), 16));
}

static inline void dots_store_sums(float * out, dots_t a, dots_t b, dots_t c, dots_t d) {
    const __m256d ab   = _mm256_castps_pd(_mm256_add_ps(_mm256_unpacklo_ps(a, b), _mm256_unpackhi_ps(a, b)));
    const __m256d cd   = _mm256_castps_pd(_mm256_add_ps(_mm256_unpacklo_ps(c, d), _mm256_unpackhi_ps(c, d)));
    const __m256  abcd = _mm256_add_ps(_mm256_castpd_ps(_mm256_unpacklo_pd(ab, cd)), _mm256_castpd_ps(_mm256_unpackhi_pd(ab, cd)));
    _mm_storeu_ps(out, _mm_add_ps(_mm256_castps256_ps128(abcd), _mm256_extractf128_ps(abcd, 1)));
}

#elif defined(INVARIANT_NEON)

typedef float32x4_t dots_t;

static constexpr int N_DOT_COLS_MAX = 5;

static inline dots_t dots_zero()                              { return vdupq_n_f32(0.0f); }
static inline dots_t dots_add (dots_t a, dots_t b)            { return vaddq_f32(a, b); }
static inline dots_t dots_fma (dots_t a, dots_t b, dots_t c)  { return vfmaq_f32(c, a, b); }
static inline dots_t dots_load(const float * p)               { return vld1q_f32(p); }
static inline dots_t dots_load(const ggml_fp16_t * p)         { return vcvt_f32_f16(vreinterpret_f16_u16(vld1_u16((const uint16_t *) p))); }
static inline dots_t dots_load(const ggml_bf16_t * p) {
    return vreinterpretq_f32_u32(vshll_n_u16(vld1_u16((const uint16_t *) p), 16));
}

static inline void dots_store_sums(float * out, dots_t a, dots_t b, dots_t c, dots_t d) {
    vst1q_f32(out, vpaddq_f32(vpaddq_f32(a, b), vpaddq_f32(c, d)));
}

#endif

static inline float dots_load_one(const float * p)       { return *p; }
static inline float dots_load_one(const ggml_fp16_t * p) { return GGML_CPU_FP16_TO_FP32(*p); }
static inline float dots_load_one(const ggml_bf16_t * p) { return GGML_BF16_TO_FP32(*p); }

// W: type of the weights, A: of the activations, STEP: columns that are read at a time, CHAIN: steps of one chain
template <ggml_type type> struct dots_type;

template <typename W_, typename A_, int step, int64_t chain> struct dots_traits {
    typedef W_ W;
    typedef A_ A;

    static constexpr int     STEP  = step;
    static constexpr int64_t CHAIN = chain;
};

static constexpr int64_t CHAIN_OF_ALL = INT64_MAX/2;

static constexpr int N_F32 = sizeof(dots_t)/sizeof(float);

// where weights are exact, short chains keep the sum as exact as can be
template <> struct dots_type<GGML_TYPE_F32>  : dots_traits<float,       float,       N_F32,   8> {};
template <> struct dots_type<GGML_TYPE_F16>  : dots_traits<ggml_fp16_t, float,       N_F32,   CHAIN_OF_ALL> {};
#if defined(INVARIANT_AVX512) && defined(__AVX512BF16__)
template <> struct dots_type<GGML_TYPE_BF16> : dots_traits<ggml_bf16_t, ggml_bf16_t, 2*N_F32, CHAIN_OF_ALL> {};
#else
template <> struct dots_type<GGML_TYPE_BF16> : dots_traits<ggml_bf16_t, float,       N_F32,   CHAIN_OF_ALL> {};
#endif

// res: [n]
template <typename T, int n>
static inline void add_step(const typename T::W * const * w, const typename T::A * const * a, int64_t k, dots_t (* res)[N_DOT_ROWS]) {
#if defined(INVARIANT_AVX512) && defined(__AVX512BF16__)
    if constexpr (std::is_same_v<typename T::A, ggml_bf16_t>) {
        __m512bh x[N_DOT_ROWS];
        INVARIANT_UNROLL
        for (int r = 0; r < N_DOT_ROWS; ++r) {
            x[r] = (__m512bh) _mm512_loadu_si512(w[r] + k);
        }
        INVARIANT_UNROLL
        for (int c = 0; c < n; ++c) {
            const __m512bh y = (__m512bh) _mm512_loadu_si512(a[c] + k);
            INVARIANT_UNROLL
            for (int r = 0; r < N_DOT_ROWS; ++r) {
                res[c][r] = _mm512_dpbf16_ps(res[c][r], x[r], y);
            }
        }
        return;
    }
#endif
    dots_t x[N_DOT_ROWS];
    INVARIANT_UNROLL
    for (int r = 0; r < N_DOT_ROWS; ++r) {
        x[r] = dots_load(w[r] + k);
    }
    INVARIANT_UNROLL
    for (int c = 0; c < n; ++c) {
        const dots_t y = dots_load(a[c] + k);
        INVARIANT_UNROLL
        for (int r = 0; r < N_DOT_ROWS; ++r) {
            res[c][r] = dots_fma(x[r], y, res[c][r]);
        }
    }
}

// adds the products of columns from begin to end, in steps, and reads the rows that come next ahead
template <typename T, int n>
static inline void add_chain(const typename T::W * const * w, const typename T::A * const * a, int64_t begin, int64_t end, dots_t (* res)[N_DOT_ROWS]) {
#if defined(__GNUC__)
    const int64_t n_ahead = N_DOT_ROWS*((const char *) w[1] - (const char *) w[0]);
#endif
    for (int64_t k = begin*T::STEP; k < end*T::STEP; k += T::STEP) {
#if defined(__GNUC__)
        INVARIANT_UNROLL
        for (int r = 0; r < N_DOT_ROWS; ++r) {
            __builtin_prefetch((const char *) (w[r] + k) + n_ahead);
        }
#endif
        add_step<T, n>(w, a, k, res);
    }
}

// outs: [n], to N_DOT_ROWS floats each
template <typename T, int n>
static void dot_rows(int64_t n_k, const typename T::W * const * w, const typename T::A * const * a, float * const * outs) {
    const int64_t n_steps = n_k/T::STEP;

    dots_t res[n][N_DOT_ROWS];
    INVARIANT_UNROLL
    for (int i = 0; i < n*N_DOT_ROWS; ++i) {
        res[i/N_DOT_ROWS][i % N_DOT_ROWS] = dots_zero();
    }
    add_chain<T, n>(w, a, 0, std::min(n_steps, T::CHAIN), res);

    for (int64_t begin = T::CHAIN; begin < n_steps; begin += T::CHAIN) {
        dots_t next[n][N_DOT_ROWS] = {};
        add_chain<T, n>(w, a, begin, std::min(n_steps, begin + T::CHAIN), next);

        INVARIANT_UNROLL
        for (int i = 0; i < n*N_DOT_ROWS; ++i) {
            dots_t & sum = res[i/N_DOT_ROWS][i % N_DOT_ROWS];
            sum = dots_add(sum, next[i/N_DOT_ROWS][i % N_DOT_ROWS]);
        }
    }

    static_assert(N_DOT_ROWS == 4, "sums are stored by four");
    INVARIANT_UNROLL
    for (int c = 0; c < n; ++c) {
        dots_store_sums(outs[c], res[c][0], res[c][1], res[c][2], res[c][3]);
    }

    for (int64_t k = n_steps*T::STEP; k < n_k; ++k) {
        for (int i = 0; i < n*N_DOT_ROWS; ++i) {
            float & sum = outs[i/N_DOT_ROWS][i % N_DOT_ROWS];
            sum = fmaf(dots_load_one(w[i % N_DOT_ROWS] + k), dots_load_one(a[i/N_DOT_ROWS] + k), sum);
        }
    }
}

template <typename T, int n = N_DOT_COLS_MAX>
static void dot_rows_of(int n_cols, int64_t n_k, const typename T::W * const * w, const typename T::A * const * a, float * const * outs) {
    if (n_cols == n) {
        dot_rows<T, n>(n_k, w, a, outs);
    } else if constexpr (n > 1) {
        dot_rows_of<T, n - 1>(n_cols, n_k, w, a, outs);
    }
}

#endif // INVARIANT
