/* treellama-state.h: sequences, or the whole cache, as bytes */

size_t treellama_state_size(struct llama_context * ctx, llama_seq_id seq_id, bool partial);
size_t treellama_state_get (struct llama_context * ctx, llama_seq_id seq_id, bool partial, uint8_t * dst, size_t size);
size_t treellama_state_set (struct llama_context * ctx, llama_seq_id seq_id, bool partial, const uint8_t * src, size_t size);
