#pragma once

// tokenizing as llama.cpp does by itself, by std::regex

#include "llama.h"

#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

// as treellama_tokenize without special tokens. It recurses once a character: texts must be short
int32_t treellama_tokenize_by_std_regex(
        const struct llama_vocab * vocab,
        const char * text, int32_t n_text,
        llama_token * tokens, int32_t n_tokens_max, bool * failed);

#ifdef __cplusplus
}
#endif
