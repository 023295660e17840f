/* treellama-cells.h: what the cells of a cache hold, and how they move on a device */

int32_t treellama_cells(
    struct llama_context * ctx, bool swa, llama_seq_id seq_id, llama_pos * pos, int32_t * nodes, uint32_t * seqs);
int32_t treellama_tree_commit_in_place(
    struct llama_context * ctx, llama_seq_id seq_id, const int32_t * path, int32_t n_path);
