#pragma once

// cells that are taken together

#include "op.h"

#if defined(FATTN_ORDERED)

// the cells of a chunk whose positions fall into one block, and how many are fetched meanwhile from where
struct fattn_block {
    int64_t begin;
    int64_t end;
    int64_t next;
    int64_t n_next;
};

// at most N_SUB cells of a block
struct fattn_sub {
    int64_t i;
    int64_t begin;
    int64_t n;
    int64_t n_pad;
};

template <typename F>
static void for_each_sub(const fattn_block & block, F && f) {
    for (int64_t b = block.begin; b < block.end; b += N_SUB) {
        const int64_t n = std::min(N_SUB, block.end - b);

        f(fattn_sub { (b - block.begin)/N_SUB, b, n, GGML_PAD(n, N_LANES) });
    }
}

#endif // FATTN_ORDERED
