#pragma once

// what training needs of a model

#include "llama.h"

#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

// the weights of all norms, by name, which are the same however a model is quantised; returns how many
// out may be NULL to ask
LLAMA_API int64_t treellama_norms(const struct llama_model * model, float * out);

// rows of the output matrix as the model's file has them, and of the embeddings of tokens; n_embd floats each
LLAMA_API int32_t treellama_output_rows   (const char * model_path, const int32_t * rows, int32_t n, int64_t n_embd, float * out);
LLAMA_API int32_t treellama_embedding_rows(const struct llama_model * model, const int32_t * tokens, int32_t n, float * out);

// what logits are multiplied by, 1 for most models
LLAMA_API float treellama_logit_scale(const struct llama_model * model);

#ifdef __cplusplus
}
#endif
