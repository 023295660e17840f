#pragma once

// memory: as llama_memory_*, with 0 for success

#include "llama.h"

#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

LLAMA_API int32_t treellama_memory_clear   (struct llama_context * ctx, bool data);
LLAMA_API int32_t treellama_memory_seq_rm  (struct llama_context * ctx, llama_seq_id seq_id, llama_pos p0, llama_pos p1); // 1: partial removal refused
LLAMA_API int32_t treellama_memory_seq_cp  (struct llama_context * ctx, llama_seq_id src, llama_seq_id dst, llama_pos p0, llama_pos p1);
LLAMA_API int32_t treellama_memory_seq_keep(struct llama_context * ctx, llama_seq_id seq_id);
LLAMA_API int32_t treellama_memory_seq_add (struct llama_context * ctx, llama_seq_id seq_id, llama_pos p0, llama_pos p1, llama_pos delta);
LLAMA_API int32_t treellama_memory_seq_div (struct llama_context * ctx, llama_seq_id seq_id, llama_pos p0, llama_pos p1, int32_t d);

// true if positions can be moved afterwards: not where each has learned weights of its own
LLAMA_API bool treellama_memory_can_shift(struct llama_context * ctx);

// carry out the shifts and copies that wait for the next pass
LLAMA_API int32_t treellama_memory_update(struct llama_context * ctx);

// smallest and largest position of many sequences, -1 where empty
LLAMA_API int32_t treellama_memory_ranges(
        struct llama_context * ctx, const llama_seq_id * seq_ids, int32_t n_seqs, llama_pos * pos_min, llama_pos * pos_max);

// true if cells of a sequence are cells of others too
LLAMA_API bool treellama_memory_is_shared(struct llama_context * ctx, llama_seq_id seq_id);

// true if a sequence has cells of its own among those of another one, src, in [p0, p1]; or if the model has no such cells
LLAMA_API bool treellama_memory_would_mix(
        struct llama_context * ctx, llama_seq_id src, llama_seq_id dst, llama_pos p0, llama_pos p1);

// cells in use of the cache that holds a sequence, those of pending nodes too; -1 if the model has none
LLAMA_API int32_t treellama_n_cells_used(struct llama_context * ctx, llama_seq_id seq_id);

#ifdef __cplusplus
}
#endif
