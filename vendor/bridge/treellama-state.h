#pragma once

// state: sizes in bytes, 0 on failure; seq_id -1 means the whole context

#include "llama.h"

#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

LLAMA_API size_t treellama_state_size(struct llama_context * ctx, llama_seq_id seq_id);
LLAMA_API size_t treellama_state_get (struct llama_context * ctx, llama_seq_id seq_id,       uint8_t * dst, size_t size);
LLAMA_API size_t treellama_state_set (struct llama_context * ctx, llama_seq_id seq_id, const uint8_t * src, size_t size);

#ifdef __cplusplus
}
#endif
