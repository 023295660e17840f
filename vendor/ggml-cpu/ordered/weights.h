#pragma once

// scores of a row: how they are finished, and how they become weights

#include "op.h"
#include "rows.h"

#include "vec.h"

#include <cmath>

#if defined(FATTN_ORDERED)

// p = p*scale, capped, plus slope*mask. n is a multiple of N_LANES
static void finish_scores(const fattn_op & op, int64_t n, float * p, const float * mask, float slope) {
    const GGML_F32_VEC vscale = GGML_F32_VEC_SET1(op.scale);
    const GGML_F32_VEC vslope = GGML_F32_VEC_SET1(slope);

    if (op.softcap == 0.0f) {
        for (int64_t j = 0; j < n; j += GGML_F32_EPR) {
            const GGML_F32_VEC s = GGML_F32_VEC_MUL(GGML_F32_VEC_LOAD(p + j), vscale);
            GGML_F32_VEC_STORE(p + j, GGML_F32_VEC_FMA(s, GGML_F32_VEC_LOAD(mask + j), vslope));
        }
        return;
    }

    const GGML_F32_VEC vcap = GGML_F32_VEC_SET1(op.softcap);

    for (int64_t j = 0; j < n; j += GGML_F32_EPR) {
        GGML_F32_VEC_STORE(p + j, GGML_F32_VEC_MUL(GGML_F32_VEC_LOAD(p + j), vscale));
    }
    for (int64_t j = 0; j < n; ++j) {
        p[j] = tanhf(p[j]);
    }
    for (int64_t j = 0; j < n; j += GGML_F32_EPR) {
        const GGML_F32_VEC s = GGML_F32_VEC_MUL(GGML_F32_VEC_LOAD(p + j), vcap);
        GGML_F32_VEC_STORE(p + j, GGML_F32_VEC_FMA(s, GGML_F32_VEC_LOAD(mask + j), vslope));
    }
}

// p = exp(p - M), added to the lanes in which they stand: ggml_vec_soft_max_f32()'s, as that function computes it
static void weigh_aligned(float * lanes, float * p, int64_t n, float M) {
#if (defined(__AVX512F__) && defined(__AVX512DQ__)) || (defined(__AVX2__) && defined(__FMA__) && !defined(__AVX512F__))
    const GGML_F32_VEC top = GGML_F32_VEC_SET1(M);

    for (int64_t l = 0; l < N_LANES; l += GGML_F32_EPR) {
        GGML_F32_VEC sum = GGML_F32_VEC_LOAD(lanes + l);
        for (int64_t j = l; j < n; j += N_LANES) {
#if defined(__AVX512F__)
            const GGML_F32_VEC e = ggml_v_expf(_mm512_sub_ps(GGML_F32_VEC_LOAD(p + j), top));
#else
            const GGML_F32_VEC e = ggml_v_expf(_mm256_sub_ps(GGML_F32_VEC_LOAD(p + j), top));
#endif
            GGML_F32_VEC_STORE(p + j, e);
            sum = GGML_F32_VEC_ADD(sum, e);
        }
        GGML_F32_VEC_STORE(lanes + l, sum);
    }
#else
    ggml_vec_soft_max_f32(n, p, p, M);
    lanes_add(lanes, p, n);
#endif
}

// the same for cells at any positions
static void weigh_scattered(float * lanes, float * p, int64_t n, int64_t n_pad, const int32_t * pos, float M) {
    ggml_vec_soft_max_f32(n_pad, p, p, M);

    for (int64_t j = 0; j < n; ++j) {
        lanes[pos[j] % N_LANES] += p[j];
    }
}

#endif // FATTN_ORDERED
