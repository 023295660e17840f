#pragma once

// probe: the masks that attention really used, and the cells of a cache

#include "llama.h"

#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

LLAMA_API struct treellama_probe * treellama_probe_new (void);
LLAMA_API void                     treellama_probe_free(struct treellama_probe * probe);

// forget what was recorded
LLAMA_API void treellama_probe_reset(struct treellama_probe * probe);

// records so far: one for each micro-batch and each cache (base, sliding window)
LLAMA_API int32_t treellama_probe_count(const struct treellama_probe * probe);

// record i: rows are the tokens of the micro-batch (stream by stream), columns are cells
// data (n_streams*n_tokens*n_kv floats) may be NULL to ask for the shape only
LLAMA_API int32_t treellama_probe_read(
        const struct treellama_probe * probe, int32_t i,
        bool * is_swa, int32_t * n_kv, int32_t * n_tokens, int32_t * n_streams, float * data);

// the cells of the cache (the sliding-window one if swa) that holds seq_id
//   pos:   position of each cell, -1 if empty
//   nodes: the pending node that it holds, -1 if none
//   seqs:  256 bits a cell, the sequences that it belongs to
// returns the number of cells (pos, nodes and seqs may be NULL together to ask), or -1 if the memory has no such cache
LLAMA_API int32_t treellama_cells(
        struct llama_context * ctx, bool swa, llama_seq_id seq_id, llama_pos * pos, int32_t * nodes, uint32_t * seqs);

#ifdef __cplusplus
}
#endif
