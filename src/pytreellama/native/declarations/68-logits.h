/* treellama-logits.h */

void treellama_argmax(const float * logits, int32_t n_rows, int32_t n_vocab, llama_token * tokens);
int32_t treellama_top_k(
    const float * logits, int32_t n_rows, int32_t n_vocab, int32_t k, bool normalise, llama_token * tokens, float * values);
void treellama_logp(
    const float * logits, int32_t n_rows, int32_t n_vocab, const llama_token * tokens, float * logp);
int32_t treellama_top_logp(
    const float * row, int32_t n_vocab, llama_token token, float * logp,
    int32_t k, llama_token * top_tokens, float * top_logp);
