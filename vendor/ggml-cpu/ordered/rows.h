#pragma once

// rows of floats: their sums, their largest value, and one row joined to another

#include "op.h"

#include "vec.h"

#include <cmath>

#if defined(FATTN_ORDERED)

// y = y*a + x*b
static void vec_join(int64_t n, float * y, float a, const float * x, float b) {
    const GGML_F32_VEC va = GGML_F32_VEC_SET1(a);
    const GGML_F32_VEC vb = GGML_F32_VEC_SET1(b);

    int64_t i = 0;
    for (; i + GGML_F32_EPR <= n; i += GGML_F32_EPR) {
        const GGML_F32_VEC xb = GGML_F32_VEC_MUL(GGML_F32_VEC_LOAD(x + i), vb);
        GGML_F32_VEC_STORE(y + i, GGML_F32_VEC_FMA(xb, GGML_F32_VEC_LOAD(y + i), va));
    }
    for (; i < n; ++i) {
        y[i] = fmaf(y[i], a, x[i]*b);
    }
}

static bool vec_is_finite(int64_t n, const float * x) {
    const GGML_F32_VEC zero = GGML_F32_VEC_SET1(0.0f);

    // nothing times what is not finite is NaN
    GGML_F32_VEC acc = zero;

    int64_t i = 0;
    for (; i + GGML_F32_EPR <= n; i += GGML_F32_EPR) {
        acc = GGML_F32_VEC_FMA(acc, GGML_F32_VEC_LOAD(x + i), zero);
    }

    float lanes[GGML_F32_EPR];
    GGML_F32_VEC_STORE(lanes, acc);

    bool res = true;
    for (const float lane : lanes) {
        res &= lane == 0.0f;
    }
    for (; i < n; ++i) {
        res &= std::isfinite(x[i]);
    }

    return res;
}

// the second if the first is NaN, so that the largest of the others does not get lost
#if defined(__AVX512F__)
#define FATTN_VEC_MAX _mm512_max_ps
#elif defined(__AVX__)
#define FATTN_VEC_MAX _mm256_max_ps
#elif defined(__ARM_NEON) && defined(__aarch64__)
#define FATTN_VEC_MAX vmaxnmq_f32
#endif

static void lanes_max(float * lanes, const float * p, int64_t n) {
    for (int64_t l = 0; l < N_LANES; l += GGML_F32_EPR) {
#if defined(FATTN_VEC_MAX)
        GGML_F32_VEC m = GGML_F32_VEC_LOAD(lanes + l);
        for (int64_t j = l; j < n; j += N_LANES) {
            m = FATTN_VEC_MAX(GGML_F32_VEC_LOAD(p + j), m);
        }
        GGML_F32_VEC_STORE(lanes + l, m);
#else
        for (int64_t j = l; j < n; j += N_LANES) {
            for (int64_t i = 0; i < GGML_F32_EPR; ++i) {
                lanes[l + i] = std::max(lanes[l + i], p[j + i]);
            }
        }
#endif
    }
}

// none of them is NaN
static float lanes_top(const float * lanes) {
#if defined(__AVX512F__)
    return _mm512_reduce_max_ps(_mm512_loadu_ps(lanes));
#else
    return *std::max_element(lanes, lanes + N_LANES);
#endif
}

#if defined(__AVX512F__)
static inline float vec_top(__m512 x) {
    return _mm512_reduce_max_ps(x);
}
#elif defined(__AVX__)
static inline float vec_top(__m256 x) {
    const __m128 x4 = _mm_max_ps(_mm256_castps256_ps128(x), _mm256_extractf128_ps(x, 1));
    const __m128 x2 = _mm_max_ps(x4, _mm_movehl_ps(x4, x4));

    return _mm_cvtss_f32(_mm_max_ss(x2, _mm_movehdup_ps(x2)));
}
#elif defined(__ARM_NEON) && defined(__aarch64__)
static inline float vec_top(float32x4_t x) {
    return vmaxnmvq_f32(x);
}
#endif

static float lanes_sum(const float * lanes) {
#if defined(__AVX512F__) && defined(__AVX512DQ__)
    const __m512 x  = _mm512_loadu_ps(lanes);
    const __m256 s8 = _mm256_add_ps(_mm512_castps512_ps256(x), _mm512_extractf32x8_ps(x, 1));
    const __m128 s4 = _mm_add_ps(_mm256_castps256_ps128(s8), _mm256_extractf128_ps(s8, 1));
    const __m128 s2 = _mm_add_ps(s4, _mm_movehl_ps(s4, s4));

    return _mm_cvtss_f32(_mm_add_ss(s2, _mm_movehdup_ps(s2)));
#else
    float sums[N_LANES];
    std::copy(lanes, lanes + N_LANES, sums);

    for (int l = N_LANES/2; l > 0; l /= 2) {
        for (int i = 0; i < l; ++i) {
            sums[i] += sums[i + l];
        }
    }
    return sums[0];
#endif
}

static void lanes_add(float * lanes, const float * p, int64_t n) {
    for (int64_t l = 0; l < N_LANES; l += GGML_F32_EPR) {
        GGML_F32_VEC sum = GGML_F32_VEC_LOAD(lanes + l);
        for (int64_t j = l; j < n; j += N_LANES) {
            sum = GGML_F32_VEC_ADD(sum, GGML_F32_VEC_LOAD(p + j));
        }
        GGML_F32_VEC_STORE(lanes + l, sum);
    }
}

#endif // FATTN_ORDERED
