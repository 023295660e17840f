#pragma once

// one token of a gated delta net over the state of one head, in one go over its rows
//
// Stock's loops go over the state five times: scale, dot, add, dot, and a copy before the first token. A state of 128 x 128
// floats does not fit into the first cache, so they wait for the second. Sums are those of ggml_vec_dot_f32 and roundings
// those of ggml_vec_scale_f32 and ggml_vec_mad_f32: the bits are stock's.

#include "simd-mappings.h"

#include <cmath>
#include <cstdint>

struct ggml_delta_token {
    const float * q;
    const float * k;
    const float * v;
    const float * g;    // decay: a value, or one for each column
    float         beta;
    bool          kda;  // each column has a decay of its own
};

#if defined(GGML_SIMD) && !defined(__ARM_FEATURE_SVE) && !defined(__riscv_v_intrinsic) && !defined(GGML_USE_ACCELERATE)

// from, to: a state of n rows of n floats before and behind the token, can be the same; out: n floats
// decay: scratch of n floats. false: not done, since n is no multiple of the vectors
static inline bool ggml_delta_net_token(
        const ggml_delta_token & token, const float * from, float * to, int64_t n, float scale, float * decay, float * out) {
    if (n % GGML_F32_STEP != 0) {
        return false;
    }

    for (int64_t i = 0; i < (token.kda ? n : 1); ++i) {
        decay[i] = expf(token.g[i]);
    }
    const GGML_F32_VEC decay_all = GGML_F32_VEC_SET1(decay[0]);

    for (int64_t j = 0; j < n; ++j) {
        const float * src = from + j*n;
        float       * row = to   + j*n;

        GGML_F32_VEC sum[GGML_F32_ARR] = { GGML_F32_VEC_ZERO };

        for (int64_t i = 0; i < n; i += GGML_F32_STEP) {
            for (int l = 0; l < GGML_F32_ARR; ++l) {
                const int64_t at = i + l*GGML_F32_EPR;

                const GGML_F32_VEC d = token.kda ? GGML_F32_VEC_LOAD(decay + at) : decay_all;
                const GGML_F32_VEC x = GGML_F32_VEC_MUL(GGML_F32_VEC_LOAD(src + at), d);

                GGML_F32_VEC_STORE(row + at, x);
                sum[l] = GGML_F32_VEC_FMA(sum[l], x, GGML_F32_VEC_LOAD(token.k + at));
            }
        }

        float s = 0.0f;
        GGML_F32_VEC_REDUCE(s, sum);

        const GGML_F32_VEC delta = GGML_F32_VEC_SET1((token.v[j] - s)*token.beta);

        for (int l = 0; l < GGML_F32_ARR; ++l) {
            sum[l] = GGML_F32_VEC_ZERO;
        }

        for (int64_t i = 0; i < n; i += GGML_F32_STEP) {
            for (int l = 0; l < GGML_F32_ARR; ++l) {
                const int64_t at = i + l*GGML_F32_EPR;

                const GGML_F32_VEC k = GGML_F32_VEC_LOAD(token.k + at);
                const GGML_F32_VEC x = GGML_F32_VEC_FMA(GGML_F32_VEC_LOAD(row + at), k, delta);

                GGML_F32_VEC_STORE(row + at, x);
                sum[l] = GGML_F32_VEC_FMA(sum[l], x, GGML_F32_VEC_LOAD(token.q + at));
            }
        }

        GGML_F32_VEC_REDUCE(s, sum);
        out[j] = s*scale;
    }

    return true;
}

#else

static inline bool ggml_delta_net_token(
        const ggml_delta_token &, const float *, float *, int64_t, float, float *, float *) {
    return false;
}

#endif
