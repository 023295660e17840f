#pragma once

// which tokens samplers keep of a row before they draw

#include "llama.h"

#include <stdbool.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

struct treellama_row_sampler;

// of a row sampler; ids: room for a row; how many, or TREELLAMA_EXCEPTION
int32_t treellama_kept_of_row(
        const struct treellama_row_sampler * sampler, const float * logits, int32_t n_vocab, const uint32_t * allowed,
        llama_token * ids);

// what a chain leaves of all tokens that are allowed, in its order; candidates: room for a row
int32_t treellama_kept_of_chain(
        struct llama_sampler * chain, const float * logits, int32_t n_vocab, const uint32_t * allowed,
        llama_token_data * candidates, llama_token * ids);

#ifdef __cplusplus
}
#endif
