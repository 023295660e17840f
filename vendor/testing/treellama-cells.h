#pragma once

// the cells of a KV cache: what they hold, and where a path is left on a device

#include "llama.h"

#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

// the cells of the cache (the sliding-window one if swa) that holds seq_id
//   pos:   position of each cell, -1 if empty
//   nodes: the pending node that it holds, -1 if none
//   seqs:  256 bits a cell, the sequences that it belongs to
// returns the number of cells (pos, nodes and seqs may be NULL together to ask), or -1 if the memory has no such cache
int32_t treellama_cells(
        struct llama_context * ctx, bool swa, llama_seq_id seq_id, llama_pos * pos, int32_t * nodes, uint32_t * seqs);

// as treellama_tree_commit, but no cell moves, as on a device
int32_t treellama_tree_commit_in_place(
        struct llama_context * ctx, llama_seq_id seq_id, const int32_t * path, int32_t n_path);

#ifdef __cplusplus
}
#endif
