#pragma once

// what a row sampler is made of, for its own files and for test instruments

#include "treellama-draw.h"
#include "treellama-rows.h"

#include <cstdint>
#include <deque>
#include <random>
#include <unordered_map>
#include <vector>

// the last tokens of a text, and how often each of them occurs
struct treellama_history {
    std::deque<llama_token>                  tokens;
    std::unordered_map<llama_token, int32_t> counts;

    void accept(llama_token token, size_t n_max);
    void clear();
};

struct treellama_row_sampler {
    treellama_draw_params         params;
    std::vector<llama_logit_bias> biases;

    treellama_history history;
    std::mt19937      rng;
};

// a row is summed in parts, each from nothing
static constexpr int32_t treellama_n_part = 16*n_lanes;

// of a token beside the likeliest; max: the row's largest logit, divided by the temperature
static inline float treellama_weight(float logit, float max, float temperature) {
    return exp_of_negative(logit/temperature - max);
}

enum class treellama_order {
    whole,   // all of the row, in the order of ids
    by_id,
    falling, // the likeliest tokens first, ties by id
};

// a row after bias and penalties, and what the truncating stages keep of it
struct treellama_kept {
    const float * row;
    int32_t       n_vocab;
    float         max;

    // in this order a draw goes through what is kept; ids, if not of the whole row, may stand in another
    treellama_order          order;
    std::vector<llama_token> ids;

    // room that is used again
    std::vector<float>       edited;
    std::vector<double>      sums;
    std::vector<llama_token> room;
    std::vector<uint64_t>    keys;
    treellama_top_k_scratch  top;
};

// false if no token is possible; throws if the row holds NaN or +infinity
bool treellama_keep(
        const treellama_row_sampler & sampler, const float * logits, int32_t n_vocab, const uint32_t * allowed,
        treellama_kept & kept);

// the sum of all weights, and in kept.sums those of its parts
double treellama_sum_parts(treellama_kept & kept, float temperature);

// the sum of the weights of kept.ids
double treellama_sum_kept(const treellama_kept & kept, float temperature);

// how many of kept.ids, falling, have weights that reach the target together, all if rounding keeps them below. Puts them in
// front, the last of them last
size_t treellama_reach(treellama_kept & kept, double target, float temperature);
