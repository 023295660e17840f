#pragma once

// LoRA adapters

#include "llama.h"

#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

// an adapter for a model; NULL with an error if the file is not one. Free it before the model
LLAMA_API struct llama_adapter_lora * treellama_lora_load(struct llama_model * model, const char * path);

// the sets of adapters that a context has used. Free it after the context
struct treellama_lora_sets;

LLAMA_API struct treellama_lora_sets * treellama_lora_sets_init(void);
LLAMA_API void                         treellama_lora_sets_free(struct treellama_lora_sets * sets);

// from the next pass on the context uses these adapters, each with a scale that is not 0; always give a context the same sets
LLAMA_API int32_t treellama_lora_use(
        struct treellama_lora_sets * sets, struct llama_context * ctx, struct llama_adapter_lora ** adapters, const float * scales,
        int32_t n);

#ifdef __cplusplus
}
#endif
