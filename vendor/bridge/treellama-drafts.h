#pragma once

// drafts that models carry: NextN layers and EAGLE-3 models, which read hidden states that the target's passes leave

#include "llama.h"

#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

// what NextN layers a model has
#define TREELLAMA_MTP_NONE       0
#define TREELLAMA_MTP_LOADED     1
#define TREELLAMA_MTP_NOT_LOADED 2 // they are in the file alone
#define TREELLAMA_MTP_NO_GRAPH   3 // llama.cpp does not run them for this architecture

LLAMA_API int32_t treellama_mtp_state(const struct llama_model * model);

// the layers of its target that an EAGLE-3 model reads; returns how many there are, and writes at most n_max
LLAMA_API int32_t treellama_target_layers(const struct llama_model * model, int32_t * layers, int32_t n_max);

// in passes to come, keep what these layers read of every token of a batch; the number of layers stands for the state
// that NextN layers read. -1 if the model does not offer one of them
LLAMA_API int32_t treellama_features_keep(struct llama_context * ctx, const int32_t * layers, int32_t n_layers);

// of tokens of the last batch: a row each, with the layers' states side by side. -1 if one was not kept
LLAMA_API int32_t treellama_features(
        struct llama_context * ctx, const int32_t * layers, int32_t n_layers, const int32_t * tokens, int32_t n_tokens, float * out);

// keep the states of flagged tokens of a draft context, from which the next level is drafted
LLAMA_API void treellama_draft_states_keep(struct llama_context * ctx);

// those of the first n_rows rows of the last batch, all of whose tokens were flagged. -1 if there are none
LLAMA_API int32_t treellama_draft_states(struct llama_context * ctx, int32_t n_rows, float * out);

// EAGLE-3's encoder: rows of three layers side by side become rows of n_embd. As llama_encode, or TREELLAMA_EXCEPTION
LLAMA_API int32_t treellama_draft_encode(struct llama_context * ctx, const float * features, int32_t n_rows, float * out);

#ifdef __cplusplus
}
#endif
