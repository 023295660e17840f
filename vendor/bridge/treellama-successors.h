#pragma once

// the table of the recycling drafter: what may follow a few tokens

#include "llama.h"
#include "treellama-limits.h"

#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

struct treellama_successors;

// rows behind one, two and three tokens; at most max_entries of each
LLAMA_API struct treellama_successors * treellama_successors_new (int64_t max_entries);
LLAMA_API void                          treellama_successors_free(struct treellama_successors * table);

// rows behind so many tokens, and the most successors of any row
LLAMA_API int64_t treellama_successors_size   (const struct treellama_successors * table, int32_t length);
LLAMA_API int32_t treellama_successors_max_row(const struct treellama_successors * table);

// keep the first k (at most TREELLAMA_SUCCESSORS_ROW_MAX) of n_next successors of every node of a tree; text is what stands before the tree
LLAMA_API int32_t treellama_successors_learn(
        struct treellama_successors * table, const int32_t * text, int32_t n_text, const int32_t * tokens,
        const int32_t * parents, int32_t n_nodes, const int32_t * next, const float * logits, int32_t n_next, int32_t k);

// count which successors were right along the tokens that the text went on with
LLAMA_API void treellama_successors_judge(
        struct treellama_successors * table, const int32_t * text, int32_t n_text, const int32_t * went_on, int32_t n);

// what may follow a text, and how likely; room for a row of each length; returns how many
LLAMA_API int32_t treellama_successors_of(
        const struct treellama_successors * table, const int32_t * text, int32_t n_text, double min_p, int32_t * tokens,
        double * p);

// the likeliest paths that may follow, parents first, with path probabilities; returns the number of nodes
LLAMA_API int32_t treellama_successors_grow(
        const struct treellama_successors * table, const int32_t * text, int32_t n_text, int32_t n_nodes,
        int32_t max_depth, double min_p, int32_t * tokens, int32_t * parents, double * p);

// the rows behind so many tokens, the oldest first, k columns, -1 for no token
LLAMA_API void treellama_successors_get(
        const struct treellama_successors * table, int32_t length, int32_t k, int64_t * keys, int32_t * tokens,
        int32_t * shares);
LLAMA_API int32_t treellama_successors_set(
        struct treellama_successors * table, int32_t length, int64_t n, int32_t k, const int64_t * keys,
        const int32_t * tokens, const int32_t * shares);

// how often successors were seen, or right: [backed off][length - 1][class of share]
LLAMA_API double * treellama_successors_counts(struct treellama_successors * table, bool right);

#ifdef __cplusplus
}
#endif
