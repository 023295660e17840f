// drawing a token by the usual stages, the same on every CPU

#include "treellama-draw-impl.h"
#include "treellama-impl.h"

#include <algorithm>
#include <cmath>
#include <numeric>

void treellama_history::accept(llama_token token, size_t n_max) {
    if (n_max == 0) {
        return;
    }
    if (tokens.size() == n_max) {
        const auto oldest = counts.find(tokens.front());
        if (--oldest->second == 0) {
            counts.erase(oldest);
        }
        tokens.pop_front();
    }
    tokens.push_back(token);
    ++counts[token];
}

void treellama_history::clear() {
    tokens.clear();
    counts.clear();
}

// the first of n tokens up to which their weights reach the target; the last possible one if rounding keeps them below
template <typename F>
static llama_token draw_among(int32_t n, double target, const F & weight) {
    double  run    = 0.0;
    int32_t chosen = 0;
    for (int32_t i = 0; i < n; ++i) {
        const double w = weight(i);
        if (w > 0.0) {
            run += w;
            chosen = i;
            if (run >= target) {
                break;
            }
        }
    }
    return chosen;
}

static llama_token draw_from_row(treellama_kept & kept, float temperature, double uniform) {
    const float  max    = kept.max/temperature;
    const double target = uniform*treellama_sum_parts(kept, temperature);

    // the part, then the token in it
    double        before = 0.0;
    const int32_t part   = draw_among(kept.sums.size(), target, [&](int32_t i) { return kept.sums[i]; });
    for (int32_t i = 0; i < part; ++i) {
        before += kept.sums[i];
    }

    const int32_t begin = part*treellama_n_part;
    return begin + draw_among(std::min(treellama_n_part, kept.n_vocab - begin), target - before, [&](int32_t i) {
        return treellama_weight(kept.row[begin + i], max, temperature);
    });
}

static llama_token draw_by_id(treellama_kept & kept, float temperature, double uniform) {
    const double target = uniform*treellama_sum_kept(kept, temperature);
    return kept.ids[draw_among(kept.ids.size(), target, [&](int32_t i) {
        return treellama_weight(kept.row[kept.ids[i]], kept.max/temperature, temperature);
    })];
}

static llama_token draw_falling(treellama_kept & kept, float temperature, double uniform) {
    const double      target = uniform*treellama_sum_kept(kept, temperature);
    const llama_token drawn  = kept.ids[treellama_reach(kept, target, temperature) - 1];
    if (treellama_weight(kept.row[drawn], kept.max/temperature, temperature) > 0.0f) {
        return drawn;
    }
    return treellama_row_argmax(kept.row, kept.n_vocab); // where rounding keeps all weights below the target
}

static llama_token draw(treellama_row_sampler & sampler, treellama_kept & kept) {
    const float temperature = sampler.params.temperature;
    if (temperature == 0.0f) {
        return kept.ids[0];
    }

    // one number a draw, whatever is left, as llama.cpp's sampler takes it
    const double uniform = std::uniform_real_distribution<double>(0.0, 1.0)(sampler.rng);
    if (!std::isfinite(kept.max/temperature)) {
        return treellama_row_argmax(kept.row, kept.n_vocab); // so cold that numbers end
    }
    switch (kept.order) {
        case treellama_order::whole: return draw_from_row(kept, temperature, uniform);
        case treellama_order::by_id: return draw_by_id(kept, temperature, uniform);
        default:                     return draw_falling(kept, temperature, uniform);
    }
}

//
// C ABI
//

treellama_row_sampler * treellama_row_sampler_init(
        const treellama_draw_params * params, const llama_logit_bias * biases, int32_t n_biases) {
    return treellama_guard((treellama_row_sampler *) nullptr, [&] {
        return new treellama_row_sampler { *params, { biases, biases + n_biases }, {}, std::mt19937(params->seed) };
    });
}

treellama_row_sampler * treellama_row_sampler_clone(const treellama_row_sampler * sampler) {
    return treellama_guard((treellama_row_sampler *) nullptr, [&] { return new treellama_row_sampler(*sampler); });
}

void treellama_row_sampler_free(treellama_row_sampler * sampler) {
    delete sampler;
}

int32_t treellama_row_sampler_reset(treellama_row_sampler * sampler) {
    return treellama_guard(TREELLAMA_EXCEPTION, [&] {
        sampler->history.clear();
        sampler->rng.seed(sampler->params.seed);
        return 0;
    });
}

int32_t treellama_row_sampler_accept(treellama_row_sampler * sampler, const llama_token * tokens, int32_t n_tokens) {
    return treellama_guard(TREELLAMA_EXCEPTION, [&] {
        for (int32_t i = 0; i < n_tokens; ++i) {
            sampler->history.accept(tokens[i], sampler->params.penalty_last_n);
        }
        return 0;
    });
}

int32_t treellama_row_sampler_draw(
        treellama_row_sampler * sampler, const float * logits, int32_t n_vocab, const uint32_t * allowed,
        llama_token * token) {
    return treellama_guard(TREELLAMA_EXCEPTION, [&]() -> int32_t {
        thread_local treellama_kept kept;
        if (!treellama_keep(*sampler, logits, n_vocab, allowed, kept)) {
            return TREELLAMA_NO_CANDIDATE;
        }
        *token = draw(*sampler, kept);
        return 0;
    });
}
