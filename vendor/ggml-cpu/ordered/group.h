#pragma once

// tokens that share cells, as the order tells of them: see order.h

#include "block.h"
#include "op.h"

#include <algorithm>

#if defined(FATTN_ORDERED)

// cells that some tokens of a group attend to
struct fattn_part {
    int64_t t0;  // the first of them
    int64_t n_t;

    int64_t n_cells;

    const int32_t * cells;
    const int32_t * pos;

    // behind the block of a cell, or of the cells up to end. most positions are there, once each
    int64_t block_end(int64_t begin, int64_t end) const {
        const int64_t limit = (pos[begin]/N_BLOCK + 1)*N_BLOCK;
        const int64_t guess = std::min(end, begin + limit - pos[begin]);

        if (pos[guess - 1] < limit && (guess == end || pos[guess] >= limit)) {
            return guess;
        }
        return std::lower_bound(pos + begin, pos + end, limit) - pos;
    }

    // the first cell at or after a chunk
    int64_t chunk_begin(int64_t chunk) const {
        return std::lower_bound(pos, pos + n_cells, chunk*N_CHUNK) - pos;
    }

    fattn_cells cells_from(int64_t begin) const {
        return { cells + begin, n_cells - begin };
    }
};

// the cells of a part in one chunk
struct fattn_chunk_part {
    int64_t    i; // of the part
    fattn_part part;
    int64_t    begin;
    int64_t    end;
};

// the tokens of one sequence, or of more that share tokens; or a team of such groups
struct fattn_group {
    int64_t i3;

    int64_t n_tokens;
    int64_t n_parts;
    int64_t chunk_first;
    int64_t n_chunks;

    const int32_t * tokens;

    int64_t n_rows_tile;
    int64_t n_tiles;     // of one head of K and V

    // groups first, then teams
    fattn_group(const fattn_op & op, int64_t i3, int64_t i) : i3(i3), row(op.order_row(i3)) {
        const int32_t * head = row + FATTN_ORDER_HEAD + op.q->ne[1] + i*FATTN_ORDER_GROUP;

        n_tokens    = head[0];
        tokens      = row + head[1];
        n_parts     = head[2];
        parts       = row + head[3];
        chunk_first = head[4];
        n_chunks    = head[5];

        const int64_t n_block = GGML_PAD(std::max<int64_t>(head[6], 1), N_SUB);
        GGML_ASSERT(n_block <= op.n_scores);

        n_rows_tile = std::max<int64_t>(1, std::min(N_ROWS, op.n_scores/n_block));
        n_tiles     = (n_tokens*op.n_per_kv + n_rows_tile - 1)/n_rows_tile;
    }

    fattn_part part(int64_t i) const {
        const int32_t * p     = parts + i*FATTN_ORDER_PART;
        const int32_t * cells = row + p[2];

        return { p[0], p[1], p[3], cells, cells + row[2] };
    }

    // no token sees cells before these
    bool is_first(const fattn_op & op) const {
        const int32_t * first = op.order_row(i3) + FATTN_ORDER_HEAD;

        return std::all_of(tokens, tokens + n_tokens, [&](int32_t i) { return first[i] == chunk_first; });
    }

    // the first chunk that has cells, at or after one
    int64_t next_chunk(int64_t chunk) const {
        int64_t res = chunk_first + n_chunks;
        for (int64_t i = 0; i < n_parts; ++i) {
            const fattn_part p = part(i);
            const int64_t    j = p.chunk_begin(chunk);
            if (j < p.n_cells) {
                res = std::min<int64_t>(res, p.pos[j]/N_CHUNK);
            }
        }
        return res;
    }

    // the first part from i on that has cells in a chunk, for any of tokens [t0, t1); n_parts if there is none
    fattn_chunk_part find_part(int64_t i, int64_t chunk, int64_t t0, int64_t t1) const {
        for (; i < n_parts; ++i) {
            const fattn_part p = part(i);
            if (p.t0 >= t1 || p.t0 + p.n_t <= t0) {
                continue;
            }

            const int64_t begin = p.chunk_begin(chunk);
            const int64_t end   = p.chunk_begin(chunk + 1);
            if (begin < end) {
                return { i, p, begin, end };
            }
        }
        return { n_parts, {}, 0, 0 };
    }

    // of the first part that has any from a chunk on
    fattn_cells cells_from(int64_t chunk) const {
        for (int64_t i = 0; i < n_parts; ++i) {
            const fattn_part p = part(i);
            const int64_t    j = p.chunk_begin(chunk);
            if (j < p.n_cells) {
                return p.cells_from(j);
            }
        }
        return {};
    }

private:
    const int32_t * row;
    const int32_t * parts;
};

// call f for each group
template <typename F>
static void for_each_group(const fattn_op & op, F && f) {
    for (int64_t i3 = 0; i3 < op.n_streams; ++i3) {
        const int64_t n_groups = op.order_row(i3)[0];

        for (int64_t i = 0; i < n_groups; ++i) {
            f(fattn_group(op, i3, i));
        }
    }
}

// call f for each team; for each group of a stream that has none
template <typename F>
static void for_each_team(const fattn_op & op, F && f) {
    for (int64_t i3 = 0; i3 < op.n_streams; ++i3) {
        const int64_t n_groups = op.order_row(i3)[0];
        const int64_t n_teams  = op.order_row(i3)[1];
        const int64_t first    = n_teams > 0 ? n_groups : 0;

        for (int64_t i = 0; i < (n_teams > 0 ? n_teams : n_groups); ++i) {
            f(fattn_group(op, i3, first + i));
        }
    }
}

#endif // FATTN_ORDERED
