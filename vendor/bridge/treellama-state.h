#pragma once

// state: sizes in bytes, 0 on failure; seq_id -1 means the whole context
// partial: of a sequence, without the cells that treellama_memory_seq_cp could share at any position

#include "llama.h"

#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

LLAMA_API size_t treellama_state_size(struct llama_context * ctx, llama_seq_id seq_id, bool partial);
LLAMA_API size_t treellama_state_get(
        struct llama_context * ctx, llama_seq_id seq_id, bool partial, uint8_t * dst, size_t size);
LLAMA_API size_t treellama_state_set(
        struct llama_context * ctx, llama_seq_id seq_id, bool partial, const uint8_t * src, size_t size);

#ifdef __cplusplus
}
#endif
