// llama.cpp's samplers, and drawing tokens with chains of them

#include "treellama-impl.h"

#include <algorithm>
#include <cmath>
#include <stdexcept>

llama_sampler * treellama_dry_init(
        const llama_vocab * vocab, float multiplier, float base, int32_t allowed_length, int32_t last_n,
        const char ** breakers, size_t n_breakers) {
    return treellama_guard((llama_sampler *) nullptr, [&] {
        return llama_sampler_init_dry(vocab, multiplier, base, allowed_length, last_n, breakers, n_breakers);
    });
}

llama_sampler * treellama_sampler_clone(const llama_sampler * sampler) {
    return treellama_guard((llama_sampler *) nullptr, [&] { return llama_sampler_clone(sampler); });
}

int32_t treellama_sampler_reset(llama_sampler * sampler) {
    return treellama_guard(TREELLAMA_EXCEPTION, [&] {
        llama_sampler_reset(sampler);
        return 0;
    });
}

// NaN breaks the order that sorting relies on, and infinity breaks softmax: both would be undefined behaviour further on
static llama_token_data_array all_candidates(
        const float * logits, int32_t n_vocab, const uint32_t * allowed, llama_token_data * scratch) {
    size_t n      = 0;
    bool   broken = false;
    for (llama_token id = 0; id < n_vocab; ++id) {
        if (!allowed || (allowed[id/32] >> (id%32)) & 1) {
            scratch[n++] = { id, logits[id], 0.0f };
            broken |= !(logits[id] < INFINITY);
        }
    }
    if (broken) {
        throw std::runtime_error("the logits hold NaN or +infinity");
    }
    return { scratch, n, /*.selected =*/ -1, /*.sorted =*/ false };
}

static bool any_possible(const llama_token_data_array & cur) {
    return std::any_of(cur.data, cur.data + cur.size, [](const llama_token_data & c) { return c.logit > -INFINITY; });
}

// LLAMA_TOKEN_NULL if the chain left nothing possible: a bias of -infinity may ban every candidate
static llama_token apply_chain(llama_sampler * chain, llama_token_data_array & cur) {
    llama_sampler_apply(chain, &cur);
    if (cur.selected < 0 || cur.selected >= (int64_t) cur.size) {
        throw std::runtime_error("the sampler chain selected no token");
    }

    const llama_token_data & chosen = cur.data[cur.selected];
    return chosen.logit > -INFINITY ? chosen.id : LLAMA_TOKEN_NULL;
}

int32_t treellama_draw(
        llama_sampler * chain, const float * logits, int32_t n_vocab, const uint32_t * allowed,
        llama_token_data * scratch, llama_token * token) {
    return treellama_guard(TREELLAMA_EXCEPTION, [&]() -> int32_t {
        auto cur = all_candidates(logits, n_vocab, allowed, scratch);
        if (!any_possible(cur)) {
            return TREELLAMA_NO_CANDIDATE;
        }

        *token = apply_chain(chain, cur);
        return *token == LLAMA_TOKEN_NULL ? TREELLAMA_NO_CANDIDATE : 0;
    });
}

// llama.cpp's last stage leaves weights without their sum, so the logits that the stages left are normalised here
static void write_softmax(const llama_token_data_array & cur, double * p) {
    float max = -INFINITY;
    for (size_t i = 0; i < cur.size; ++i) {
        max = std::max(max, cur.data[i].logit);
    }
    double sum = 0.0;
    for (size_t i = 0; i < cur.size; ++i) {
        sum += p[cur.data[i].id] = std::exp((double) cur.data[i].logit - max);
    }
    for (size_t i = 0; i < cur.size; ++i) {
        p[cur.data[i].id] /= sum;
    }
}

int32_t treellama_distribution(
        llama_sampler * chain, const float * logits, int32_t n_vocab, const uint32_t * allowed,
        llama_token_data * scratch, bool greedy, double * p) {
    return treellama_guard(TREELLAMA_EXCEPTION, [&]() -> int32_t {
        auto cur = all_candidates(logits, n_vocab, allowed, scratch);
        const llama_token token = any_possible(cur) ? apply_chain(chain, cur) : LLAMA_TOKEN_NULL;
        if (token == LLAMA_TOKEN_NULL) {
            return TREELLAMA_NO_CANDIDATE;
        }

        std::fill(p, p + n_vocab, 0.0);
        if (greedy) {
            p[token] = 1.0;
        } else {
            write_softmax(cur, p);
        }
        return 0;
    });
}

int32_t treellama_accept(llama_sampler * sampler, llama_token token) {
    return treellama_accept_all(sampler, &token, 1);
}

int32_t treellama_accept_all(llama_sampler * sampler, const llama_token * tokens, int32_t n_tokens) {
    return treellama_guard(TREELLAMA_EXCEPTION, [&] {
        for (int32_t i = 0; i < n_tokens; ++i) {
            llama_sampler_accept(sampler, tokens[i]);
        }
        return 0;
    });
}
