#pragma once

// model files

#include "llama.h"

#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

// check a GGUF file before it is loaded: header, metadata, and that every tensor lies within the file
LLAMA_API int32_t treellama_gguf_check(const char * path);

LLAMA_API struct llama_model * treellama_model_load(const char * path, const struct llama_model_params * params);

// why a model does not write text from left to right, or NULL if it does. Valid for ever
LLAMA_API const char * treellama_model_refusal(const struct llama_model * model);

// positions that the model has learned, each with weights of its own; -1 if it has no such limit
LLAMA_API int64_t treellama_n_positions(const struct llama_model * model);

LLAMA_API int32_t treellama_quantize(const char * path_in, const char * path_out, const struct llama_model_quantize_params * params);

#ifdef __cplusplus
}
#endif
