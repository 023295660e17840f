/* treellama-std-regex.h: tokenizing as llama.cpp does by itself */

int32_t treellama_tokenize_by_std_regex(
    const struct llama_vocab * vocab,
    const char * text, int32_t n_text,
    llama_token * tokens, int32_t n_tokens_max, bool * failed);
