// llama.cpp's vocabularies once more, as if our matcher of regular expressions were not there
//
// CMakeLists.txt hides what is compiled here, so that llama's own functions stay what they are for everybody else.

// nothing is taken from, or given to, the library that has the same functions
#undef LLAMA_SHARED

#define TREELLAMA_STD_REGEX

#include "unicode.cpp"

#include "llama-vocab.cpp"

#include "treellama-impl.h"
#include "treellama-std-regex.h"

int32_t treellama_tokenize_by_std_regex(
        const llama_vocab * vocab,
        const char * text, int32_t n_text,
        llama_token * tokens, int32_t n_tokens_max, bool * failed) {
    *failed = true;
    return treellama_guard((int32_t) 0, [&] {
        const int32_t res = vocab->tokenize(text, n_text, tokens, n_tokens_max, false, false);
        *failed = false;
        return res;
    });
}
