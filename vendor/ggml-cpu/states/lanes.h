#pragma once

// several channels at a time, or one: what loops over the channels of a head are made of
//
// a channel goes through the same lanes wherever its head stands, so its bits follow from the size of a head alone

#include "ggml-cpu-impl.h"
#include "vec.h"

#include <cstdint>
#include <type_traits>

// gcc keeps an array in memory for one loop over it that stays one
#if defined(__GNUC__)
#define LANES_UNROLL _Pragma("GCC unroll 8")
#else
#define LANES_UNROLL
#endif

struct lane_single {
    using vec = float;

    static constexpr int64_t n = 1;

    static vec  load (const float * p)            { return *p; }
    static void store(float * p, vec v)           { *p = v; }
    static vec  set  (float f)                    { return f; }
    static vec  mul  (vec a, vec b)               { return a*b; }
    static vec  fma  (vec sum, vec a, vec b)      { return sum + a*b; }
};

#if defined(GGML_SIMD) && !defined(__ARM_FEATURE_SVE) && !defined(__riscv_v_intrinsic)

struct lane_wide {
    using vec = GGML_F32_VEC;

    static constexpr int64_t n = GGML_F32_EPR;

    static vec  load (const float * p)            { return GGML_F32_VEC_LOAD(p); }
    static void store(float * p, vec v)           { GGML_F32_VEC_STORE(p, v); }
    static vec  set  (float f)                    { return GGML_F32_VEC_SET1(f); }
    static vec  mul  (vec a, vec b)               { return GGML_F32_VEC_MUL(a, b); }
    static vec  fma  (vec sum, vec a, vec b)      { return GGML_F32_VEC_FMA(sum, a, b); }

    static constexpr int n_sums = GGML_F32_ARR;

    static float total(vec * sums) {
        float res;
        GGML_F32_VEC_REDUCE(res, sums);
        return res;
    }
};

#else

struct lane_wide : lane_single {
    static constexpr int n_sums = 4;

    static float total(const vec * sums) { return (sums[0] + sums[1]) + (sums[2] + sums[3]); }
};

#endif

// a sum over the channels of a head
class lane_sum {
public:
    lane_sum() {
        LANES_UNROLL
        for (int q = 0; q < lane_wide::n_sums; ++q) {
            wide[q] = lane_wide::set(0.0f);
        }
    }

    // q: which of the vectors that for_lanes() covers
    void add(lane_wide,   int q, lane_wide::vec a, lane_wide::vec b) { wide[q] = lane_wide::fma(wide[q], a, b); }
    void add(lane_single, int,   float a,          float b)          { single += a*b; }

    float total() {
        return lane_wide::total(wide) + single;
    }

private:
    lane_wide::vec wide[lane_wide::n_sums];
    float          single = 0.0f;
};

// call f(lane, n, j) for n vectors of channels from j on, in steps as long as possible. n is a constant
template <typename F>
static inline void for_lanes(int64_t n_channels, const F & f) {
    int64_t j = 0;
    for (; j + 4*lane_wide::n <= n_channels; j += 4*lane_wide::n) {
        f(lane_wide(), std::integral_constant<int, 4>(), j);
    }
    for (; j + lane_wide::n <= n_channels; j += lane_wide::n) {
        f(lane_wide(), std::integral_constant<int, 1>(), j);
    }
    for (; j < n_channels; ++j) {
        f(lane_single(), std::integral_constant<int, 1>(), j);
    }
}
