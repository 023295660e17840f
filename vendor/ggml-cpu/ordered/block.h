#pragma once

// cells that are taken together

#include "op.h"

#if defined(FATTN_ORDERED)

// some cells, as they are listed
struct fattn_cells {
    const int32_t * cells = nullptr;
    int64_t         n     = 0;
};

// the cells of a part whose positions fall into one block, and those that are fetched meanwhile
struct fattn_block {
    const int32_t * cells;
    const int32_t * pos;
    int64_t         n;
    fattn_cells     next;
};

// at most N_SUB cells of a block
struct fattn_sub {
    int64_t i;
    int64_t begin;
    int64_t n;
    int64_t n_pad;

    const int32_t * cells;
    const int32_t * pos;
};

template <typename F>
static void for_each_sub(const fattn_block & block, F && f) {
    for (int64_t b = 0; b < block.n; b += N_SUB) {
        const int64_t n = std::min(N_SUB, block.n - b);

        f(fattn_sub { b/N_SUB, b, n, GGML_PAD(n, N_LANES), block.cells + b, block.pos + b });
    }
}

#endif // FATTN_ORDERED
