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

#if (defined(__AVX512F__) && defined(__AVX512DQ__)) || (defined(__AVX2__) && defined(__FMA__) && !defined(__AVX512F__))
#define FATTN_EXP

static constexpr bool WEIGHS_AT_ONCE = true;

// of p - top, as ggml_vec_soft_max_f32() computes it
static inline GGML_F32_VEC vec_exp(GGML_F32_VEC p, GGML_F32_VEC top) {
#if defined(__AVX512F__)
    return ggml_v_expf(_mm512_sub_ps(p, top));
#else
    return ggml_v_expf(_mm256_sub_ps(p, top));
#endif
}

// finish_scores(), their maximum, and the weights of N times N_LANES aligned cells without leaving registers. raise(M) makes
//   of the maximum the one to weigh by; -INFINITY if none is seen. the sums of the lanes
template <int N, typename F>
static inline void weigh_groups(const fattn_op & op, float * p, const float * mask, float slope, float * lanes, F && raise) {
    static constexpr int N_LANE_VECTORS = N_LANES/GGML_F32_EPR;
    static constexpr int N_ALL          = N*N_LANE_VECTORS;

    const GGML_F32_VEC vscale = GGML_F32_VEC_SET1(op.scale);
    const GGML_F32_VEC vslope = GGML_F32_VEC_SET1(slope);

    GGML_F32_VEC x[N_ALL];
    GGML_F32_VEC top = GGML_F32_VEC_SET1(-INFINITY);

    for (int i = 0; i < N_ALL; ++i) {
        const GGML_F32_VEC s = GGML_F32_VEC_MUL(GGML_F32_VEC_LOAD(p + i*GGML_F32_EPR), vscale);

        x[i] = GGML_F32_VEC_FMA(s, GGML_F32_VEC_LOAD(mask + i*GGML_F32_EPR), vslope);
        top  = FATTN_VEC_MAX(x[i], top);
    }

    const float        M  = raise(vec_top(top));
    const GGML_F32_VEC vM = GGML_F32_VEC_SET1(M);

    GGML_F32_VEC sums[N_LANE_VECTORS];
    for (int l = 0; l < N_LANE_VECTORS; ++l) {
        sums[l] = GGML_F32_VEC_SET1(0.0f);
    }

    for (int i = 0; i < N_ALL; ++i) {
        const GGML_F32_VEC e = M == -INFINITY ? GGML_F32_VEC_SET1(0.0f) : vec_exp(x[i], vM);

        GGML_F32_VEC_STORE(p + i*GGML_F32_EPR, e);
        sums[i%N_LANE_VECTORS] = GGML_F32_VEC_ADD(sums[i%N_LANE_VECTORS], e);
    }
    for (int l = 0; l < N_LANE_VECTORS; ++l) {
        GGML_F32_VEC_STORE(lanes + l*GGML_F32_EPR, sums[l]);
    }
}

// the same for n cells, at most N_SUB
template <typename F>
static void weigh_at_once(const fattn_op & op, float * p, int64_t n, const float * mask, float slope, float * lanes,
        F && raise) {
    static_assert(N_SUB == 4*N_LANES, "a case for each");

    switch (n/N_LANES) {
        case 1:  weigh_groups<1>(op, p, mask, slope, lanes, raise); break;
        case 2:  weigh_groups<2>(op, p, mask, slope, lanes, raise); break;
        case 3:  weigh_groups<3>(op, p, mask, slope, lanes, raise); break;
        default: weigh_groups<4>(op, p, mask, slope, lanes, raise); break;
    }
}
#else
static constexpr bool WEIGHS_AT_ONCE = false;

template <typename F>
static void weigh_at_once(const fattn_op &, float *, int64_t, const float *, float, float *, F &&) {
    GGML_ABORT("not supported");
}
#endif

// p = exp(p - M), added to the lanes in which they stand: ggml_vec_soft_max_f32()'s, as that function computes it
static void weigh_aligned(float * lanes, float * p, int64_t n, float M) {
#if defined(FATTN_EXP)
    const GGML_F32_VEC top = GGML_F32_VEC_SET1(M);

    for (int64_t l = 0; l < N_LANES; l += GGML_F32_EPR) {
        GGML_F32_VEC sum = GGML_F32_VEC_LOAD(lanes + l);
        for (int64_t j = l; j < n; j += N_LANES) {
            const GGML_F32_VEC e = vec_exp(GGML_F32_VEC_LOAD(p + j), top);

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
