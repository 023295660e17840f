#pragma once

// products of a panel and columns of activations
//
// an element of the result is one chain over the panels' parts that share a scale, in their order:
//   sum = fma(d_w*d_a, integer product, sum), and for a minimum sum = fma(m, sum of the activations, sum)
// the integers are exact, so that every instruction set and every number of columns gives the same bits

#include "rows.h"

#if defined(INVARIANT)

#include "acts.h"
#include "panel.h"

#if defined(INVARIANT_AVX512)

typedef __m512i ints_t;
typedef __m512  floats_t;

static constexpr int N_LANES    = 16;
static constexpr int N_COLS_MAX = 8; // columns whose sums fit into registers

static inline ints_t   ints_set   (int32_t x)                            { return _mm512_set1_epi32(x); }
static inline floats_t floats_load(const float * p)                      { return _mm512_load_ps(p); }
static inline void     floats_store(float * p, floats_t x)               { _mm512_store_ps(p, x); }
static inline floats_t floats_scaled(floats_t d, float x)                { return _mm512_mul_ps(d, _mm512_set1_ps(x)); }
static inline floats_t floats_fma (floats_t a, ints_t b, floats_t c)     { return _mm512_fmadd_ps(a, _mm512_cvtepi32_ps(b), c); }
static inline floats_t floats_fma (floats_t a, float b, floats_t c)      { return _mm512_fmadd_ps(a, _mm512_set1_ps(b), c); }

#elif defined(INVARIANT_AVX2)

typedef __m256i ints_t;
typedef __m256  floats_t;

static constexpr int N_LANES    = 8;
static constexpr int N_COLS_MAX = 4;

static inline ints_t   ints_set   (int32_t x)                            { return _mm256_set1_epi32(x); }
static inline floats_t floats_load(const float * p)                      { return _mm256_load_ps(p); }
static inline void     floats_store(float * p, floats_t x)               { _mm256_store_ps(p, x); }
static inline floats_t floats_scaled(floats_t d, float x)                { return _mm256_mul_ps(d, _mm256_set1_ps(x)); }
static inline floats_t floats_fma (floats_t a, ints_t b, floats_t c)     { return _mm256_fmadd_ps(a, _mm256_cvtepi32_ps(b), c); }
static inline floats_t floats_fma (floats_t a, float b, floats_t c)      { return _mm256_fmadd_ps(a, _mm256_set1_ps(b), c); }

#elif defined(INVARIANT_NEON)

typedef int32x4_t   ints_t;
typedef float32x4_t floats_t;

static constexpr int N_LANES    = 4;
static constexpr int N_COLS_MAX = 8;

static inline ints_t   ints_set   (int32_t x)                            { return vdupq_n_s32(x); }
static inline floats_t floats_load(const float * p)                      { return vld1q_f32(p); }
static inline void     floats_store(float * p, floats_t x)               { vst1q_f32(p, x); }
static inline floats_t floats_scaled(floats_t d, float x)                { return vmulq_n_f32(d, x); }
static inline floats_t floats_fma (floats_t a, ints_t b, floats_t c)     { return vfmaq_f32(c, a, vcvtq_f32_s32(b)); }
static inline floats_t floats_fma (floats_t a, float b, floats_t c)      { return vfmaq_f32(c, a, vdupq_n_f32(b)); }

#endif

static inline int32_t load_4_codes(const int8_t * q) {
    int32_t res;
    memcpy(&res, q, sizeof(res));
    return res;
}

// dots += codes of N_SUB columns of the panel's rows, times those of each of n activations
// w: 4 codes for each of N_LANES of the panel's N_ROWS rows
template <typename T, int n>
static inline void add_dots(const uint8_t * w, const acts_at * acts, int k, ints_t * dots) {
    constexpr int n_vecs = T::N_SUB/4;
    constexpr int stride = 4*N_ROWS;

#if defined(INVARIANT_AVX512) || defined(__AVXVNNI__)
    for (int j = 0; j < n_vecs; ++j) {
#if defined(INVARIANT_AVX512)
        const __m512i wj = _mm512_load_si512(w + j*stride);
        INVARIANT_UNROLL
        for (int c = 0; c < n; ++c) {
            dots[c] = _mm512_dpbusd_epi32(dots[c], wj, _mm512_set1_epi32(load_4_codes(acts[c].q + k + 4*j)));
        }
#else
        const __m256i wj = _mm256_load_si256((const __m256i *) (w + j*stride));
        INVARIANT_UNROLL
        for (int c = 0; c < n; ++c) {
            dots[c] = _mm256_dpbusd_avx_epi32(dots[c], wj, _mm256_set1_epi32(load_4_codes(acts[c].q + k + 4*j)));
        }
#endif
    }
#elif defined(INVARIANT_AVX2)
    const __m256i ones = _mm256_set1_epi16(1);

    if constexpr (T::MAX_CODE == 255) {
        for (int j = 0; j < n_vecs; ++j) {
            const __m256i wj  = _mm256_load_si256((const __m256i *) (w + j*stride));
            const __m256i abs = _mm256_abs_epi8(wj);
            INVARIANT_UNROLL
            for (int c = 0; c < n; ++c) {
                const __m256i a = _mm256_sign_epi8(_mm256_set1_epi32(load_4_codes(acts[c].q + k + 4*j)), wj);
                dots[c] = _mm256_add_epi32(dots[c], _mm256_madd_epi16(_mm256_maddubs_epi16(abs, a), ones));
            }
        }
    } else {
        // pairs of products that fit into 16 bits together
        constexpr int n_fit = 32767/(2*127*T::MAX_CODE);
        constexpr int n_sum = n_fit >= n_vecs ? n_vecs : n_fit >= 4 ? 4 : n_fit >= 2 ? 2 : 1;

        for (int j0 = 0; j0 < n_vecs; j0 += n_sum) {
            __m256i sums[n];
            INVARIANT_UNROLL
            for (int j = j0; j < j0 + n_sum; ++j) {
                const __m256i wj = _mm256_load_si256((const __m256i *) (w + j*stride));
                INVARIANT_UNROLL
                for (int c = 0; c < n; ++c) {
                    const __m256i p = _mm256_maddubs_epi16(wj, _mm256_set1_epi32(load_4_codes(acts[c].q + k + 4*j)));
                    sums[c] = j == j0 ? p : _mm256_add_epi16(sums[c], p);
                }
            }
            INVARIANT_UNROLL
            for (int c = 0; c < n; ++c) {
                dots[c] = _mm256_add_epi32(dots[c], _mm256_madd_epi16(sums[c], ones));
            }
        }
    }
#elif defined(INVARIANT_NEON)
    for (int j = 0; j < n_vecs; j += 4) {
        const int8_t * p = (const int8_t *) w + j*stride;
        const int8x16_t w0 = vld1q_s8(p);
        const int8x16_t w1 = vld1q_s8(p + stride);
        const int8x16_t w2 = vld1q_s8(p + stride*2);
        const int8x16_t w3 = vld1q_s8(p + stride*3);
        INVARIANT_UNROLL
        for (int c = 0; c < n; ++c) {
            const int8x16_t a = vld1q_s8(acts[c].q + k + 4*j);
            dots[c] = vdotq_laneq_s32(dots[c], w0, a, 0);
            dots[c] = vdotq_laneq_s32(dots[c], w1, a, 1);
            dots[c] = vdotq_laneq_s32(dots[c], w2, a, 2);
            dots[c] = vdotq_laneq_s32(dots[c], w3, a, 3);
        }
    }
#endif
}

// one link of the chains: the only place where integers become floats
// dot(c): the integer product of column c, its bias included
template <typename T, int n, typename F>
static inline void add_scaled(const float * d_at, const float * m_at, int k, const acts_at * acts, F dot, floats_t * res) {
    const int s = k/T::N_SUB;

    const floats_t d = floats_load(d_at);
    INVARIANT_UNROLL
    for (int c = 0; c < n; ++c) {
        res[c] = floats_fma(floats_scaled(d, acts[c].d[k/N_ACT]), dot(c), res[c]);
    }

    if (T::HAS_MIN) {
        const floats_t m = floats_load(m_at);
        INVARIANT_UNROLL
        for (int c = 0; c < n; ++c) {
            res[c] = floats_fma(m, acts[c].sums[s], res[c]);
        }
    }
}

// sums: [n][N_ROWS]
template <typename T, int n>
static void add_products(const invariant_panel & panel, int n_k, const acts_at * acts, float * sums) {
    for (int lane0 = 0; lane0 < N_ROWS; lane0 += N_LANES) {
        floats_t res[n];
        INVARIANT_UNROLL
        for (int c = 0; c < n; ++c) {
            res[c] = floats_load(sums + c*N_ROWS + lane0);
        }

        for (int k = 0; k < n_k; k += T::N_SUB) {
            const int s = k/T::N_SUB;

            ints_t dots[n];
            INVARIANT_UNROLL
            for (int c = 0; c < n; ++c) {
                dots[c] = ints_set(T::BIAS == 0 ? 0 : acts[c].biases[s]);
            }

            add_dots<T, n>(panel.q[k/4][lane0], acts, k, dots);

            add_scaled<T, n>(panel.d[s] + lane0, panel.m[s] + lane0, k, acts, [&](int c) { return dots[c]; }, res);
        }

        INVARIANT_UNROLL
        for (int c = 0; c < n; ++c) {
            floats_store(sums + c*N_ROWS + lane0, res[c]);
        }
    }
}

template <typename T, int n = N_COLS_MAX>
static void add_products_of(int n_cols, const invariant_panel & panel, int n_k, const acts_at * acts, float * sums) {
    if (n_cols == n) {
        add_products<T, n>(panel, n_k, acts, sums);
    } else if constexpr (n > 1) {
        add_products_of<T, n - 1>(n_cols, panel, n_k, acts, sums);
    }
}

#endif // INVARIANT
