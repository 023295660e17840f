#pragma once

// samplers, and drawing tokens with them

#include "llama.h"

#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

// a GBNF grammar. What one may do is bounded in work, at its start and a token: beyond that, what is asked of it is
// TREELLAMA_TOO_MUCH_WORK. NULL for one that cannot be parsed, or that llama.cpp could not handle (left recursion, too many
// rules at once)
struct treellama_grammar;

LLAMA_API struct treellama_grammar * treellama_grammar_init (const struct llama_vocab * vocab, const char * text, const char * root);
LLAMA_API struct treellama_grammar * treellama_grammar_clone(const struct treellama_grammar * grammar);
LLAMA_API int32_t                    treellama_grammar_reset(struct treellama_grammar * grammar);
LLAMA_API void                       treellama_grammar_free (struct treellama_grammar * grammar);

// TREELLAMA_NO_CANDIDATE if the grammar refuses the token, and stays as it was
LLAMA_API int32_t treellama_grammar_accept(struct treellama_grammar * grammar, llama_token token);

// as llama_sampler_init_dry, llama_sampler_clone and llama_sampler_reset, which may throw; NULL or TREELLAMA_EXCEPTION then
LLAMA_API struct llama_sampler * treellama_dry_init(
        const struct llama_vocab * vocab, float multiplier, float base, int32_t allowed_length, int32_t last_n,
        const char ** breakers, size_t n_breakers);
LLAMA_API struct llama_sampler * treellama_sampler_clone(const struct llama_sampler * sampler);
LLAMA_API int32_t                treellama_sampler_reset(struct llama_sampler * sampler);

// draw one token from a row of logits and accept it into the chain and the grammar
//   grammar: may be NULL. The chain draws first; only if the grammar refuses that token is it applied to all
//            candidates and the draw repeated (llama.cpp does so in common/sampling.cpp)
//   allowed: may be NULL; otherwise a bit a token, those without are left out
//   scratch: n_vocab entries
LLAMA_API int32_t treellama_sample(
        struct llama_sampler * chain, struct treellama_grammar * grammar,
        const float * logits, int32_t n_vocab, const uint32_t * allowed,
        llama_token_data * scratch, llama_token * token);

// as treellama_sample, but neither the chain nor the grammar is told of the token
LLAMA_API int32_t treellama_draw(
        struct llama_sampler * chain, struct treellama_grammar * grammar,
        const float * logits, int32_t n_vocab, const uint32_t * allowed,
        llama_token_data * scratch, llama_token * token);

// tell a chain of tokens
LLAMA_API int32_t treellama_accept(struct llama_sampler * sampler, llama_token token);
LLAMA_API int32_t treellama_accept_all(struct llama_sampler * sampler, const llama_token * tokens, int32_t n_tokens);

#ifdef __cplusplus
}
#endif
