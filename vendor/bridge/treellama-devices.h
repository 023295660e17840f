#pragma once

// the devices that a model computes on besides the CPU, and what they can do with a KV cache

#include "llama.h"

#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

// the devices of a model, without the CPU: at most n_max are filled in. returns their number
LLAMA_API int32_t treellama_model_devices(const struct llama_model * model, ggml_backend_dev_t * devices, int32_t n_max);

// bytes of a KV cache of n_ctx cells, as if no layer had a sliding window
//   device:  the part that is kept there; NULL for the whole cache
//   offload: each layer's part is where the layer is, and not in the CPU's memory
LLAMA_API int64_t treellama_kv_bytes(
        const struct llama_model * model, ggml_backend_dev_t device, bool offload, uint32_t n_ctx, enum ggml_type type_k,
        enum ggml_type type_v);

// 0 if each device can write its part of such a cache, and has the flash attention that quantised values or `flash` ask
// for; otherwise TREELLAMA_EXCEPTION
LLAMA_API int32_t treellama_check_cache_types(
        const struct llama_model * model, bool offload, enum ggml_type type_k, enum ggml_type type_v, bool flash);

#ifdef __cplusplus
}
#endif
