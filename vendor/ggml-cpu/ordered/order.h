#pragma once

#include "ggml.h"

// in which order the cells of K and V stand in their texts, so that sums over cells need not depend on where the cells are.
// A backend may ignore it.
//
// order: I32 [n, ne3], for each stream
//   [0]          number of groups of tokens that attend to the same cells, such as those of one sequence
//   [1 + 5*g]    number of tokens of a group, where they are in this row,
//                number of cells,              where they are in this row,
//                and the largest number of cells whose positions fall into one multiple of 64
//   tokens       indices into dim 1 of Q
//   cells        indices into dim 1 of K and V, each once, by rising position
//   positions    of these cells, not negative, right behind them. they can repeat, but a token sees one cell of each at most
// each token is in one group, and the mask hides from it what is not in its group's cells
static inline void ggml_flash_attn_ext_set_order(struct ggml_tensor * a, struct ggml_tensor * order) {
    GGML_ASSERT(a->op == GGML_OP_FLASH_ATTN_EXT);
    GGML_ASSERT(order->type == GGML_TYPE_I32);
    GGML_ASSERT(ggml_is_contiguous(order));
    GGML_ASSERT(order->ne[1] == a->src[0]->ne[3]);

    a->src[5] = order;
}
