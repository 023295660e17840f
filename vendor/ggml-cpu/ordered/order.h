#pragma once

#include "ggml.h"

// positions are cut into blocks, and those into chunks: see op.h
static constexpr int32_t FATTN_ORDER_BLOCK = 64;
static constexpr int32_t FATTN_ORDER_CHUNK = 256;

// numbers in the head of the order, of each group or team, and of each part
static constexpr int32_t FATTN_ORDER_HEAD  = 3;
static constexpr int32_t FATTN_ORDER_GROUP = 7;
static constexpr int32_t FATTN_ORDER_PART  = 4;

// in which order the cells of K and V stand in their texts, so that sums over cells need not depend on where the cells are,
// and which tokens can read them together. A backend may ignore it.
//
// a group is the tokens that attend to the same cells, such as those of one sequence. a team is some groups, for chunks in
// which they see cells in common; each chunk of each group is in one team. cells that many see are listed once
//
// order: I32 [n, ne3], for each stream
//   [0]  number of groups
//   [1]  number of teams; 0 if no groups see cells in common
//   [2]  how far behind a cell its position stands
//   [3 + i] for each token, the first chunk in which its group has cells
//   for each group, then for each team
//        number of tokens, where they are in this row,
//        number of parts,  where they are in this row,
//        the first chunk, the number of chunks from there to the last,
//        and the largest number of cells of a part whose positions fall into one block
//   tokens    indices into dim 1 of Q
//   parts     first token of those that see it, their number, where the cells are in this row, their number
//   cells     indices into dim 1 of K and V, by rising position
//   positions of cells, not negative. they can repeat, but a token sees one cell of each at most
// each token is in one group, and the mask hides from it what is not in its group's cells. what a token sees of a part is at
// later positions than what it sees of the parts before, and no block of a token is in two parts
static inline void ggml_flash_attn_ext_set_order(struct ggml_tensor * a, struct ggml_tensor * order) {
    GGML_ASSERT(a->op == GGML_OP_FLASH_ATTN_EXT);
    GGML_ASSERT(order->type == GGML_TYPE_I32);
    GGML_ASSERT(ggml_is_contiguous(order));
    GGML_ASSERT(order->ne[1] == a->src[0]->ne[3]);

    a->src[5] = order;
}
