#pragma once

// vocabularies

#include "llama.h"

#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

// number of tokens, or minus the number needed; TREELLAMA_EXCEPTION is reported through *failed
LLAMA_API int32_t treellama_tokenize(
        const struct llama_vocab * vocab,
        const char * text, int32_t n_text,
        llama_token * tokens, int32_t n_tokens_max,
        bool add_special, bool parse_special, bool * failed);

// the bytes of many tokens in one call: offsets[n_tokens + 1] into buf
// returns the number of bytes; if it is more than size, nothing was written beyond size: call again with a larger buf
LLAMA_API int64_t treellama_pieces(
        const struct llama_vocab * vocab,
        const llama_token * tokens, int32_t n_tokens, bool special,
        char * buf, int64_t size, int64_t * offsets);

#ifdef __cplusplus
}
#endif
