#pragma once

// loops over a row of logits, for the files of the bridge that read rows

#include "llama.h"

#include <cstdint>
#include <cstring>
#include <vector>

// rows are long and compilers may assume no more than SSE2 here: loops over a row are compiled for newer CPUs as well
#if defined(__GNUC__) && defined(__x86_64__) && defined(__gnu_linux__)
#define ROW_LOOP __attribute__((target_clones("avx512f", "avx2", "default")))
#else
#define ROW_LOOP
#endif

// running values, for the lanes of vectors
static constexpr int32_t n_lanes = 16;

#if defined(__GNUC__)
// anywhere in memory
typedef float lanes_t __attribute__((vector_size(n_lanes*sizeof(float)), aligned(sizeof(float)), may_alias));

// no compiler makes vectors of this by itself
static inline void lanes_max(lanes_t & lanes, const float * row) {
    const lanes_t & x = *(const lanes_t *) row;
    lanes = x > lanes ? x : lanes;
}
#else
struct lanes_t {
    float x[n_lanes];
    float & operator[](int32_t l) { return x[l]; }
};

static inline void lanes_max(lanes_t & lanes, const float * row) {
    for (int32_t l = 0; l < n_lanes; ++l) {
        lanes[l] = row[l] > lanes[l] ? row[l] : lanes[l];
    }
}
#endif

static inline void lanes_fill(lanes_t & lanes, float x) {
    for (int32_t l = 0; l < n_lanes; ++l) {
        lanes[l] = x;
    }
}

// exp(x) for x <= 0, to 2e-7 of it; 0 below -87 and for NaN. Standard libraries have none for vectors, and ggml_v_expf of
// ggml-cpu/vec.h is no substitute: it is compiled for the one instruction set that its library has, while these loops have
// several in one (libllama is the same for all CPU variants), its bits differ between them, and rows' ends go through expf
static inline float exp_of_negative(float x) {
    const float bounded = x > -87.0f ? x : -87.0f;

    const float round   = 12582912.0f; // 1.5*2^23
    const float shifted = bounded*1.44269504f + round;
    const float n       = shifted - round;
    const float r       = (bounded - n*0.693359375f) + n*2.12194440e-4f;

    float p = 1.0f/5040;
    p = p*r + 1.0f/720;
    p = p*r + 1.0f/120;
    p = p*r + 1.0f/24;
    p = p*r + 1.0f/6;
    p = p*r + 0.5f;
    p = p*r + 1.0f;
    p = p*r + 1.0f;

    int32_t bits;
    memcpy(&bits, &shifted, sizeof(bits));
    bits = (int32_t) ((uint32_t) (bits + 127) << 23);

    float scale;
    memcpy(&scale, &bits, sizeof(scale));
    return x > -87.0f ? p*scale : 0.0f;
}

// the first of the largest values, as llama.cpp's greedy sampler chooses
llama_token treellama_row_argmax(const float * row, int32_t n);

struct treellama_top_k_scratch {
    std::vector<float>       maxima;
    std::vector<float>       largest;
    std::vector<llama_token> ids;
};

// puts the k likeliest tokens in front of scratch.ids, falling, ties by id
void treellama_row_top_k(const float * row, int32_t n, int32_t k, treellama_top_k_scratch & scratch);
