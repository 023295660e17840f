/* treellama-tree.h */

#define TREELLAMA_TEXT ...

const char * treellama_tree_refusal(const struct llama_context * ctx);
size_t  treellama_tree_node_size(const struct llama_context * ctx);
int32_t treellama_tree_decode (struct llama_context * ctx, const struct llama_batch * batch, const int32_t * parents);
int32_t treellama_tree_decode_one(struct llama_context * ctx, llama_seq_id seq_id, const llama_token * tokens,
    const int32_t * parents, const int32_t * depths, int32_t n_nodes);
int32_t treellama_tree_nodes  (const struct llama_context * ctx, llama_seq_id seq_id, int32_t * parents, llama_pos * pos);
int32_t treellama_tree_commit (struct llama_context * ctx, llama_seq_id seq_id, const int32_t * path, int32_t n_path);
int32_t treellama_tree_prune(
        struct llama_context * ctx, llama_seq_id seq_id, const bool * keep, int32_t n_nodes);
int32_t treellama_tree_discard(struct llama_context * ctx, llama_seq_id seq_id);
