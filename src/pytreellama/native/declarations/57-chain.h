/* treellama-chain.h */

bool    treellama_chain_supported(const struct llama_model * model);
int32_t treellama_chain_max      (const struct llama_context * ctx);
size_t  treellama_chain_state_size     (const struct llama_context * ctx);
int32_t treellama_chain_decode   (struct llama_context * ctx, const struct llama_batch * batch);
int32_t treellama_chain_commit(
    struct llama_context * ctx, llama_seq_id seq_id, llama_pos n_past, int32_t n_tokens, int32_t n_keep);
