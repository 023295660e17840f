/* treellama-memory.h: the KV cache */

int32_t treellama_memory_clear   (struct llama_context * ctx, bool data);
int32_t treellama_memory_seq_rm  (struct llama_context * ctx, llama_seq_id seq_id, llama_pos p0, llama_pos p1);
int32_t treellama_memory_seq_cp  (struct llama_context * ctx, llama_seq_id src, llama_seq_id dst, llama_pos p0, llama_pos p1);
int32_t treellama_memory_seq_keep(struct llama_context * ctx, llama_seq_id seq_id);
int32_t treellama_memory_seq_add (struct llama_context * ctx, llama_seq_id seq_id, llama_pos p0, llama_pos p1, llama_pos delta);
int32_t treellama_memory_seq_div (struct llama_context * ctx, llama_seq_id seq_id, llama_pos p0, llama_pos p1, int32_t d);
bool treellama_memory_can_shift(struct llama_context * ctx);
int32_t treellama_memory_update(struct llama_context * ctx);
bool treellama_memory_is_shared(struct llama_context * ctx, llama_seq_id seq_id);
bool treellama_memory_would_mix(
    struct llama_context * ctx, llama_seq_id src, llama_seq_id dst, llama_pos p0, llama_pos p1);
int32_t treellama_n_cells_used(struct llama_context * ctx, llama_seq_id seq_id);
int32_t treellama_memory_ranges(
    struct llama_context * ctx, const llama_seq_id * seq_ids, int32_t n_seqs, llama_pos * pos_min, llama_pos * pos_max);
