#pragma once

// prefixes: a sequence that begins as another one does, and shares its cells
//
// keys and values of full attention can be cut after any token. The cells of a sliding window and a recurrent state
// cannot: they are what they are after the last token. Kept as a part of the state (treellama_state_get), they and the
// shared cells are a prefix again

#include "llama.h"

#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

#define TREELLAMA_PREFIXES_NONE  0 // this memory cannot be cut at all
#define TREELLAMA_PREFIXES_CELLS 1 // after any token, as long as a window's cells are there
#define TREELLAMA_PREFIXES_STATE 2 // after the last token; before it, with a part of the state that was kept

LLAMA_API int32_t treellama_prefixes(const struct llama_context * ctx);

// true if the first n tokens of a sequence can be shared as they are
LLAMA_API bool treellama_prefix_is_held(const struct llama_context * ctx, llama_seq_id seq_id, llama_pos n);

// true if what is shared must be copied: cells of a window that has no room for those who left it
LLAMA_API bool treellama_window_is_small(const struct llama_context * ctx);

#ifdef __cplusplus
}
#endif
