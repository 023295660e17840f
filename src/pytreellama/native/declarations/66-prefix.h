/* treellama-prefix.h: what a memory can share of a sequence */

#define TREELLAMA_PREFIXES_NONE  0
#define TREELLAMA_PREFIXES_CELLS 1
#define TREELLAMA_PREFIXES_STATE 2

int32_t treellama_prefixes(const struct llama_context * ctx);
bool treellama_prefix_is_held(const struct llama_context * ctx, llama_seq_id seq_id, llama_pos n);
bool treellama_window_is_small(const struct llama_context * ctx);
