#pragma once

// samplers, and drawing tokens with them

#include "llama.h"

#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

// as llama_sampler_init_dry, llama_sampler_clone and llama_sampler_reset, which may throw; NULL or TREELLAMA_EXCEPTION then
LLAMA_API struct llama_sampler * treellama_dry_init(
        const struct llama_vocab * vocab, float multiplier, float base, int32_t allowed_length, int32_t last_n,
        const char ** breakers, size_t n_breakers);
LLAMA_API struct llama_sampler * treellama_sampler_clone(const struct llama_sampler * sampler);
LLAMA_API int32_t                treellama_sampler_reset(struct llama_sampler * sampler);

// draw one token from a row of logits; the chain is not told of it. TREELLAMA_NO_CANDIDATE if none is possible
//   allowed: may be NULL; otherwise a bit a token, those without are left out
//   scratch: n_vocab entries
LLAMA_API int32_t treellama_draw(
        struct llama_sampler * chain, const float * logits, int32_t n_vocab, const uint32_t * allowed,
        llama_token_data * scratch, llama_token * token);

// the distribution that treellama_draw draws from with this chain, which is not told of anything
//   greedy: the chain ends with the likeliest token, which has all the probability
//   p:      n_vocab entries, 0 for what the stages leave out
LLAMA_API int32_t treellama_distribution(
        struct llama_sampler * chain, const float * logits, int32_t n_vocab, const uint32_t * allowed,
        llama_token_data * scratch, bool greedy, double * p);

// tell a chain of tokens
LLAMA_API int32_t treellama_accept(struct llama_sampler * sampler, llama_token token);
LLAMA_API int32_t treellama_accept_all(struct llama_sampler * sampler, const llama_token * tokens, int32_t n_tokens);

#ifdef __cplusplus
}
#endif
