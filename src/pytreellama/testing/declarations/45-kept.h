/* treellama-kept.h: which tokens samplers keep of a row before they draw */

int32_t treellama_kept_of_row(
    const struct treellama_row_sampler * sampler, const float * logits, int32_t n_vocab, const uint32_t * allowed,
    llama_token * ids);
int32_t treellama_kept_of_chain(
    struct llama_sampler * chain, const float * logits, int32_t n_vocab, const uint32_t * allowed,
    llama_token_data * candidates, llama_token * ids);
