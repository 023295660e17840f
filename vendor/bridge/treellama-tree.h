#pragma once

// trees: a sequence's guesses, which hang on the end of its text and all carry its one seq_id

#include "llama.h"
#include "treellama-limits.h"

#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

// a node sees the text, its ancestors and itself. Its position is one more than its parent's; siblings share one.
// Nodes are pending until a path of them is committed, or all are discarded. They are numbered in the order in which
// they were added. While a sequence has some, its text cannot go on, and treellama_memory_* and treellama_state_* must
// leave it alone.

// a token that is no node
#define TREELLAMA_TEXT -2

// why the memory of this model cannot hold trees; NULL if it can
LLAMA_API const char * treellama_tree_refusal(const struct llama_context * ctx);

// what is kept of a node beside its cells, for a recurrent state; 0 before the first node, and without such a state
LLAMA_API size_t treellama_tree_node_size(const struct llama_context * ctx);

// as treellama_decode; the tokens with a parent other than TREELLAMA_TEXT become nodes
//   parents: -1 for the end of the text, or a node of the same sequence, old or earlier in this batch
// unless 0 is returned, none of them does, and what was pending before stays so
LLAMA_API int32_t treellama_tree_decode(
        struct llama_context * ctx, const struct llama_batch * batch, const int32_t * parents);

// the same of one tree of a sequence that has no pending nodes, all with logits; parents before their children
LLAMA_API int32_t treellama_tree_decode_one(
        struct llama_context * ctx, llama_seq_id seq_id, const llama_token * tokens, const int32_t * parents,
        const int32_t * depths, int32_t n_nodes);

// number of pending nodes of a sequence; parents and pos may be NULL together to ask
LLAMA_API int32_t treellama_tree_nodes(
        const struct llama_context * ctx, llama_seq_id seq_id, int32_t * parents, llama_pos * pos);

// make a path of nodes (each the parent of the next) text and free all others; -1 if it is not such a path
// the path's keys and values move, bit for bit, to the lowest cells of the tree
LLAMA_API int32_t treellama_tree_commit(
        struct llama_context * ctx, llama_seq_id seq_id, const int32_t * path, int32_t n_path);

// free the pending nodes of a sequence that are not kept; -1 if n_nodes is not their number, or the parent of one that is
// kept is not. Those that stay are numbered anew, in the same order
LLAMA_API int32_t treellama_tree_prune(
        struct llama_context * ctx, llama_seq_id seq_id, const bool * keep, int32_t n_nodes);

// free all pending nodes of a sequence
LLAMA_API int32_t treellama_tree_discard(struct llama_context * ctx, llama_seq_id seq_id);

#ifdef __cplusplus
}
#endif
