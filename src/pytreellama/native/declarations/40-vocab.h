/* llama.h: vocabularies */

enum llama_vocab_type {
    LLAMA_VOCAB_TYPE_NONE,
    LLAMA_VOCAB_TYPE_SPM,
    LLAMA_VOCAB_TYPE_BPE,
    LLAMA_VOCAB_TYPE_WPM,
    LLAMA_VOCAB_TYPE_UGM,
    LLAMA_VOCAB_TYPE_RWKV,
    LLAMA_VOCAB_TYPE_PLAMO2,
    ...
};

enum llama_vocab_type llama_vocab_type(const struct llama_vocab * vocab);

int32_t llama_vocab_n_tokens(const struct llama_vocab * vocab);

bool llama_vocab_is_eog    (const struct llama_vocab * vocab, llama_token token);
bool llama_vocab_is_control(const struct llama_vocab * vocab, llama_token token);
int llama_vocab_get_attr(const struct llama_vocab * vocab, llama_token token);
bool llama_vocab_get_add_bos(const struct llama_vocab * vocab);

llama_token llama_vocab_bos(const struct llama_vocab * vocab);
llama_token llama_vocab_eos(const struct llama_vocab * vocab);
llama_token llama_vocab_eot(const struct llama_vocab * vocab);
llama_token llama_vocab_nl (const struct llama_vocab * vocab);

llama_token llama_vocab_fim_pre(const struct llama_vocab * vocab);
llama_token llama_vocab_fim_suf(const struct llama_vocab * vocab);
llama_token llama_vocab_fim_mid(const struct llama_vocab * vocab);
llama_token llama_vocab_fim_rep(const struct llama_vocab * vocab);
llama_token llama_vocab_fim_sep(const struct llama_vocab * vocab);

/* treellama-vocab.h */

int32_t treellama_tokenize(
    const struct llama_vocab * vocab,
    const char * text, int32_t n_text,
    llama_token * tokens, int32_t n_tokens_max,
    bool add_special, bool parse_special, bool * failed);

int64_t treellama_pieces(
    const struct llama_vocab * vocab,
    const llama_token * tokens, int32_t n_tokens, bool special,
    char * buf, int64_t size, int64_t * offsets);
