#pragma once

// how an op's work is cut: heads that are done together, chunks that are done apart

#include "op.h"

#if defined(FATTN_ORDERED)

// more than this for the results of chunks is not worth the balance between threads
static constexpr size_t PARTIALS_MAX = 16*1024*1024;

// items that a thread should find, so that all are done at the same time
static constexpr int64_t N_ITEMS_THREAD = 4;

// a unit is a tile of each of n_band heads of K and V. an item is a unit, or one chunk of one
struct fattn_cut {
    int64_t n_band   = 1;
    bool    by_chunk = false;

    fattn_cut() = default;

    fattn_cut(const fattn_op & op, int n_threads) {
        int64_t n_tiles     = 0; // of one head, of all groups
        int64_t n_chunks    = 0;
        int64_t n_rows      = 1;
        bool    is_one_tile = true;

        bool fits = op.partials <= PARTIALS_MAX;

        for_each_group(op, [&](const fattn_group & group) {
            n_tiles     += group.n_tiles;
            n_chunks    += group.n_tiles*group.n_chunks;
            n_rows       = std::max(n_rows, group.n_tokens*op.n_per_kv);
            is_one_tile &= group.n_tiles <= 1;
            fits        &= group.n_chunks <= op.n_slots;
        });

        const int64_t n_wanted = n_threads > 1 ? N_ITEMS_THREAD*n_threads : 1;

        // as many heads as there is room for, evenly, and with work for all threads
        if (is_one_tile) {
            const int64_t n_items = n_threads > 1 && fits ? n_chunks : n_tiles;

            int64_t n = bands(op, std::max<int64_t>(1, N_ROWS/n_rows));
            while (n < op.n_heads_kv && n*n_items < n_wanted) {
                ++n;
            }
            n_band = (op.n_heads_kv + n - 1)/n;
        }

        // few units leave threads without work
        by_chunk = n_threads > 1 && fits && (n_band > 1 || n_tiles*op.n_heads_kv < n_wanted);
    }

    int64_t n_units(const fattn_op & op, const fattn_group & group) const {
        return group.n_tiles*bands(op, n_band);
    }

private:
    static int64_t bands(const fattn_op & op, int64_t n) {
        return (op.n_heads_kv + n - 1)/n;
    }
};

#endif // FATTN_ORDERED
