#pragma once

// encoders: passes over whole texts, which leave hidden states or a classifier's scores

#include "llama.h"

#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

// whether the model reads whole texts in passes without a memory, and its hidden states are of n_embd_out numbers
LLAMA_API bool treellama_model_is_encoder(const struct llama_model * model);

// outputs of the classifier over a text, as of a reranker; 0 without one
LLAMA_API int32_t treellama_model_n_class(const struct llama_model * model);

// a pass over whole texts, each a sequence of its own from position 0 on; as treellama_decode. Afterwards
// treellama_hidden has the state of token i as row i
LLAMA_API int32_t treellama_encode(struct llama_context * ctx, const struct llama_batch * batch);

// the classifier's outputs for sequences 0 to n_seq - 1 of the last pass, treellama_model_n_class floats each. The context
// has LLAMA_POOLING_TYPE_RANK
LLAMA_API int32_t treellama_class_scores(struct llama_context * ctx, int32_t n_seq, float * out);

#ifdef __cplusplus
}
#endif
