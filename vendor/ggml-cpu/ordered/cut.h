#pragma once

// how an op's work is cut: heads that are done together, chunks that are done apart

#include "group.h"

#if defined(FATTN_ORDERED)

// more than this for the results of chunks is not worth the balance between threads
static constexpr size_t PARTIALS_MAX = 16*1024*1024;

// items that a thread should find, so that all are done at the same time
static constexpr int64_t N_ITEMS_THREAD = 4;

// a unit is a tile of each of some heads of K and V, a band. an item is a unit, or one chunk of one
struct fattn_cut {
    bool by_chunk = false;
    bool by_team  = false; // what groups share is read once, chunk by chunk

    fattn_cut() = default;

    fattn_cut(const fattn_op & op, int n_threads) {
        bool fits     = op.partials <= PARTIALS_MAX;
        bool has_team = false;

        for_each_group(op, [&](const fattn_group & group) {
            fits &= group.n_chunks <= op.n_slots;
        });
        for (int64_t i3 = 0; i3 < op.n_streams; ++i3) {
            has_team |= op.order_row(i3)[1] > 0;
        }
        by_team = has_team && fits;

        int64_t n_tiles     = 0; // of one head, of all groups
        int64_t n_chunks    = 0;
        int64_t n_rows      = 1;
        bool    is_one_tile = true;

        for_each(op, [&](const fattn_group & group) {
            n_tiles     += group.n_tiles;
            n_chunks    += group.n_tiles*group.n_chunks;
            n_rows       = std::max(n_rows, group.n_tokens*op.n_per_kv);
            is_one_tile &= group.n_tiles <= 1;
        });

        n_wanted = n_threads > 1 ? N_ITEMS_THREAD*n_threads : 1;

        if (is_one_tile || by_team) {
            is_banded   = true;
            const int64_t n_items = n_threads > 1 && fits ? n_chunks : n_tiles;
            n_bands_min = std::min(op.n_heads_kv, (n_wanted + n_items - 1)/std::max<int64_t>(1, n_items));
        }

        // few units leave threads without work
        by_chunk = by_team || (n_threads > 1 && fits &&
            ((is_banded && band(op, n_rows) > 1) || n_tiles*op.n_heads_kv < n_wanted));
    }

    template <typename F>
    void for_each(const fattn_op & op, F && f) const {
        if (by_team) {
            for_each_team(op, f);
        } else {
            for_each_group(op, f);
        }
    }

    // heads of K and V that a unit of a group has: as many as there is room for, evenly, and with work for all threads
    int64_t band(const fattn_op & op, const fattn_group & group) const {
        return group.n_tiles > 1 ? 1 : band(op, group.n_tokens*op.n_per_kv);
    }

    int64_t n_units(const fattn_op & op, const fattn_group & group) const {
        return group.n_tiles*bands(op, band(op, group));
    }

    // whether a unit is one item although chunks are done apart: nothing comes before, so that results of single chunks
    //   need not be kept, nothing of another team between, and there is work for all threads
    bool is_whole(const fattn_op & op, const fattn_group & group) const {
        return !by_chunk || (by_team && group.n_chunks > 1 && n_units(op, group) >= n_wanted && group.is_first(op) &&
            !has_gap(group));
    }

private:
    // a chunk in between may be another team's
    static bool has_gap(const fattn_group & group) {
        for (int64_t c = group.chunk_first; c < group.chunk_first + group.n_chunks; ++c) {
            if (group.next_chunk(c) != c) {
                return true;
            }
        }
        return false;
    }

    int64_t n_wanted    = 1;
    bool    is_banded   = false;
    int64_t n_bands_min = 1;

    int64_t band(const fattn_op & op, int64_t n_rows) const {
        if (!is_banded) {
            return 1;
        }
        return bands(op, std::max(n_bands_min, bands(op, std::max<int64_t>(1, N_ROWS/std::max<int64_t>(1, n_rows)))));
    }

    static int64_t bands(const fattn_op & op, int64_t n) {
        return (op.n_heads_kv + n - 1)/n;
    }
};

#endif // FATTN_ORDERED
