#pragma once

// one tile of attention: some rows (queries times heads) of each of some heads of K and V, summed chunk by chunk

#include "block.h"
#include "fetch.h"
#include "gemm.h"
#include "group.h"
#include "mask.h"
#include "outputs.h"
#include "pack.h"
#include "recode.h"
#include "rows.h"
#include "scores.h"
#include "sums.h"
#include "weights.h"

#include <algorithm>
#include <cmath>
#include <cstring>

#if defined(FATTN_ORDERED)

// some of a tile's rows, all that see a part, and their tokens
struct fattn_row_range {
    int64_t r0;
    int64_t n;
    int64_t t0; // among the group's
    int64_t n_t;
};

// rows [row0, row0 + n_rows) of heads [head0, head0 + n_band) of K and V, row = token*n_per_kv + head. K and V of all heads
//   of a cell are neighbours in memory: they are read together
struct fattn_tile {
    const fattn_op    & op;
    const fattn_group & group;

    const int64_t head0;
    const int64_t n_band;
    const int64_t row0;
    const int64_t n_rows;

    fattn_cells chunk_next; // of the chunk that this thread does next

    bool is_strict = false; // leave hidden cells out, instead of giving them no weight

    fattn_tile(const fattn_op & op, const fattn_group & group, int64_t i_unit, int64_t n_band, char * scratch) :
        op(op), group(group),
        head0(i_unit/group.n_tiles*n_band),
        n_band(std::min(n_band, op.n_heads_kv - head0)),
        row0((i_unit%group.n_tiles)*group.n_rows_tile),
        n_rows(std::min(group.n_rows_tile, group.n_tokens*op.n_per_kv - row0)) {

        Q       = (float *) GGML_PAD((uintptr_t) scratch, SCRATCH_ALIGN);
        KT      = Q       + N_ROWS*op.DK;
        rows    = KT      + N_SUB*std::max(op.DK, op.DV);
        V       = KT;
        cur.O   = rows    + 8*op.DK;
        total.O = cur.O   + N_ROWS*op.DV;
        cur.M   = total.O + N_ROWS*op.DV;
        cur.S   = cur.M   + N_ROWS;
        total.M = cur.S   + N_ROWS;
        total.S = total.M + N_ROWS;
        P       = total.S + N_ROWS;
        mask    = P       + op.n_scores;
        slopes  = mask    + op.n_scores;
        seen    = (int32_t *) (slopes + N_ROWS);
        aligned = seen    + op.n_scores/N_SUB;
        codes   = aligned + op.n_scores/N_SUB;

        total.clear(this->n_band*n_rows, op.DV);
    }

    fattn_head head(int64_t h) const {
        const int64_t r = h*n_rows;

        return { head0 + h, Q + r*op.DK, slopes + r, cur.from(r, op.DV), total.from(r, op.DV) };
    }

    template <typename F>
    void for_each_head(F && f) const {
        for (int64_t h = 0; h < n_band; ++h) {
            f(head(h));
        }
    }

    int64_t token (int64_t r) const { return group.tokens[(row0 + r)/op.n_per_kv]; }
    int64_t q_head(const fattn_head & h, int64_t r) const { return h.i*op.n_per_kv + (row0 + r)%op.n_per_kv; }

    int64_t row_id(const fattn_head & h, int64_t r) const { return op.row_id(token(r), q_head(h, r), group.i3); }

    // what is needed to add chunks, not to join them
    void load_queries() {
        for_each_head([&](const fattn_head & h) {
            for (int64_t r = 0; r < n_rows; ++r) {
                memcpy(h.Q + r*op.DK, (const char *) op.q->data + token(r)*op.q->nb[1] + q_head(h, r)*op.q->nb[2] +
                    group.i3*op.q->nb[3], op.DK*sizeof(float));
                h.slopes[r] = op.slope(q_head(h, r));
            }
        });
    }

    // the cells of one chunk of positions, summed up from nothing into cur
    void add_chunk(int64_t chunk) {
        is_strict = false;
        sum_chunk(chunk, 0, n_band);

        for (int64_t h = 0; h < n_band; ++h) {
            if (!vec_is_finite(n_rows*op.DV, head(h).cur.O)) {
                is_strict = true;
                sum_chunk(chunk, h, h + 1);
            }
        }
    }

    void join() {
        for_each_head([&](const fattn_head & h) {
            for (int64_t r = 0; r < n_rows; ++r) {
                join_row(op.DV, h.total.M[r], h.total.S[r], h.total.O + r*op.DV, h.cur.M[r], h.cur.S[r], h.cur.O + r*op.DV);
            }
        });
    }

    void write() {
        for_each_head([&](const fattn_head & h) {
            for (int64_t r = 0; r < n_rows; ++r) {
                write_row(op, token(r), q_head(h, r), group.i3, h.total.M[r], h.total.S[r], h.total.O + r*op.DV);
            }
        });
    }

private:
    float * Q;
    float * KT;   // [DK][N_SUB]
    float * rows; // [8][DK]
    float * V;    // [N_SUB][DV], in the place of KT
    void  * codes; // [N_SUB] rows of Q8_0
    float * P;    // [sub][row][N_SUB]
    float * mask; // [sub][token][N_SUB]

    float   * slopes;
    int32_t * seen;    // [sub] any cell is seen by any row
    int32_t * aligned; // [sub] cells stand at consecutive positions, the first in the first lane

    fattn_sums cur;
    fattn_sums total;

    fattn_row_range at; // the rows that are worked on

    // the rows of this tile that see a part
    fattn_row_range rows_of(const fattn_part & part) const {
        const int64_t begin = std::max(row0, part.t0*op.n_per_kv);
        const int64_t end   = std::min(row0 + n_rows, (part.t0 + part.n_t)*op.n_per_kv);
        const int64_t t0    = begin/op.n_per_kv;

        return { begin - row0, end - begin, t0, (end - 1)/op.n_per_kv - t0 + 1 };
    }

    void sum_chunk(int64_t chunk, int64_t h0, int64_t h1) {
        for (int64_t h = h0; h < h1; ++h) {
            head(h).cur.clear(n_rows, op.DV);
        }

        const int64_t t0 = row0/op.n_per_kv;
        const int64_t t1 = (row0 + n_rows - 1)/op.n_per_kv + 1;

        for (auto here = group.find_part(0, chunk, t0, t1); here.i < group.n_parts;) {
            const auto then = group.find_part(here.i + 1, chunk, t0, t1);
            at = rows_of(here.part);
            sum_part(here, then.i < group.n_parts ? then.part.cells_from(then.begin) : chunk_next, h0, h1);
            here = then;
        }
    }

    void sum_part(const fattn_chunk_part & here, const fattn_cells & then, int64_t h0, int64_t h1) {
        const fattn_part & part = here.part;

        for (int64_t begin = here.begin; begin < here.end;) {
            const int64_t e = part.block_end(begin, here.end);
            const int64_t n = e - begin;
            fattn_cells next = e < here.end ? fattn_cells { part.cells + e, here.end - e } : then;
            next.n = std::min(next.n, std::min(n, N_BLOCK));

            add_block({ part.cells + begin, part.pos + begin, n, next }, h0, h1);
            begin = e;
        }
    }

    // head h's rows that are worked on
    fattn_head head_at(int64_t h) const {
        const fattn_head all = head(h);

        return { all.i, all.Q + at.r0*op.DK, all.slopes + at.r0, all.cur.from(at.r0, op.DV), all.total.from(at.r0, op.DV) };
    }

    void add_block(const fattn_block & block, int64_t h0, int64_t h1) {
        bool any = false;
        for_each_sub(block, [&](const fattn_sub & sub) {
            any |= look(sub);
        });

        for (int64_t h = h0; any && h < h1; ++h) {
            add_block(head_at(h), block);
        }
    }

    void add_block(const fattn_head & h, const fattn_block & block) {
        for_each_seen(block, [&](const fattn_sub & sub) {
            score(h, block, sub);
        });

        for (int64_t r = 0; r < at.n; ++r) {
            if (is_at_once(block)) {
                weigh_at_once(h, block, r);
            } else {
                weigh(h, block, r);
            }
        }

        for_each_seen(block, [&](const fattn_sub & sub) {
            if (is_strict) {
                output_strict(h, sub);
            } else {
                output(h, block, sub);
            }
        });
    }

    template <typename F>
    void for_each_seen(const fattn_block & block, F && f) const {
        for_each_sub(block, [&](const fattn_sub & sub) {
            if (seen[sub.i]) {
                f(sub);
            }
        });
    }

    float * scores_of(const fattn_sub & sub) const { return P + sub.i*at.n*N_SUB; }

    const float * mask_of(const fattn_sub & sub, int64_t r) const {
        return mask + (sub.i*at.n_t + (row0 + at.r0 + r)/op.n_per_kv - at.t0)*N_SUB;
    }

    // rows of K or V that take the place of those of a sub
    fattn_fetch fetch(const fattn_head & h, const ggml_tensor * t, const fattn_block & block, const fattn_sub & sub) const {
        if (sub.begin >= block.next.n) {
            return {};
        }
        return { cell_data(t, 0, h.i, group.i3), t->nb[1], ggml_row_size(t->type, t->ne[0]), block.next.cells + sub.begin,
            std::min(N_SUB, block.next.n - sub.begin) };
    }

    // masks; false if all cells are hidden from all rows
    bool look(const fattn_sub & sub) {
        const bool is_run = counts_up(sub.cells, sub.n);

        // rows of masks are far from each other: fetch what is most often looked at next
        const int64_t ahead = sub.cells[0] + 2*N_SUB <= op.n_kv ? N_SUB : 0;

        aligned[sub.i] = sub.pos[0] % N_LANES == 0 && counts_up(sub.pos, sub.n);

        bool any = false;
        for (int64_t t = 0; t < at.n_t; ++t) {
            const char * mp = (const char *) op.mask->data + group.tokens[at.t0 + t]*op.mask->nb[1] +
                (group.i3%op.mask->ne[3])*op.mask->nb[3];
            for (int64_t i = 0; i < N_SUB; i += 32) {
                fetch_line<true>((const ggml_fp16_t *) mp + sub.cells[0] + ahead + i);
            }
            any |= gather_mask((const ggml_fp16_t *) mp, sub.cells, sub.n, sub.n_pad, is_run, mask + (sub.i*at.n_t + t)*N_SUB);
        }
        seen[sub.i] = any;

        return any;
    }

    // K or V of a sub, in a type that kernels know
    fattn_rows rows_of(const fattn_head & h, const ggml_tensor * t, const fattn_sub & sub) const {
        const fattn_rows stored { t->type, cell_data(t, 0, h.i, group.i3), t->nb[1], sub.cells, sub.n, sub.n_pad };

        return recode(stored, t->ne[0], codes);
    }

    void score(const fattn_head & h, const fattn_block & block, const fattn_sub & sub) {
        const fattn_fetch next = fetch(h, op.v, block, sub);
        const fattn_rows  keys = rows_of(h, op.k, sub);

        score_rows(keys, h.Q, op.DK, at.n, rows, KT, scores_of(sub), next);

        if (!is_at_once(block)) {
            finish(h, sub);
        }
        if (is_strict) {
            hide(sub);
        }
    }

    void finish(const fattn_head & h, const fattn_sub & sub) {
        for (int64_t r = 0; r < at.n; ++r) {
            finish_scores(op, sub.n_pad, scores_of(sub) + r*sub.n_pad, mask_of(sub, r), h.slopes[r]);
        }
    }

    void hide(const fattn_sub & sub) {
        for (int64_t r = 0; r < at.n; ++r) {
            for (int64_t j = 0; j < sub.n; ++j) {
                if (mask_of(sub, r)[j] == -INFINITY) {
                    scores_of(sub)[r*sub.n_pad + j] = -INFINITY;
                }
            }
        }
    }

    // whether a row's scores of a block stay in registers until they are weights
    bool is_at_once(const fattn_block & block) const {
        return WEIGHS_AT_ONCE && block.n <= N_SUB && aligned[0] && !is_strict && op.softcap == 0.0f;
    }

    void weigh_at_once(const fattn_head & h, const fattn_block & block, int64_t r) {
        alignas(64) float lanes[N_LANES];

        for_each_sub(block, [&](const fattn_sub & sub) {
            ::weigh_at_once(op, scores_of(sub) + r*sub.n_pad, sub.n_pad, mask_of(sub, r), h.slopes[r], lanes, [&](float M) {
                return M == -INFINITY ? M : raise_maximum(h, r, M);
            });
        });
        h.cur.S[r] += lanes_sum(lanes);
    }

    // the maximum to weigh by from now on
    float raise_maximum(const fattn_head & h, int64_t r, float M) const {
        const float Mold = h.cur.M[r];

        if (!(M > Mold)) {
            return Mold;
        }

        const float ms = expf(Mold - M);

        ggml_vec_scale_f32(op.DV, h.cur.O + r*op.DV, ms);
        h.cur.S[r] *= ms;
        h.cur.M[r]  = M;

        return M;
    }

    // a row's scores of a block into weights, relative to the largest score so far
    void weigh(const fattn_head & h, const fattn_block & block, int64_t r) {
        alignas(64) float lanes[N_LANES];
        std::fill(lanes, lanes + N_LANES, -INFINITY);

        for_each_seen(block, [&](const fattn_sub & sub) {
            lanes_max(lanes, scores_of(sub) + r*sub.n_pad, sub.n_pad);
        });
        float M = lanes_top(lanes);

        // all hidden from this row
        if (M == -INFINITY) {
            for_each_seen(block, [&](const fattn_sub & sub) {
                memset(scores_of(sub) + r*sub.n_pad, 0, sub.n_pad*sizeof(float));
            });
            return;
        }

        M = raise_maximum(h, r, M);

        std::fill(lanes, lanes + N_LANES, 0.0f);

        for_each_seen(block, [&](const fattn_sub & sub) {
            float * p = scores_of(sub) + r*sub.n_pad;

            // most text stands where the lanes are, and gets the same sums faster
            if (aligned[sub.i]) {
                weigh_aligned(lanes, p, sub.n_pad, M);
            } else {
                weigh_scattered(lanes, p, sub.n, sub.n_pad, sub.pos, M);
            }
        });

        h.cur.S[r] += lanes_sum(lanes);
    }

    void output(const fattn_head & h, const fattn_block & block, const fattn_sub & sub) {
        const fattn_fetch next = fetch(h, op.k, block, sub);

        output_rows(h.cur.O, op.DV, scores_of(sub), at.n, rows_of(h, op.v, sub), V, next);
    }

    // without cells that have no weight, whatever they hold
    void output_strict(const fattn_head & h, const fattn_sub & sub) {
        const fattn_rows values = rows_of(h, op.v, sub);

        for (int64_t r = 0; r < at.n; ++r) {
            const float * p = scores_of(sub) + r*sub.n_pad;

            pack_v(values, op.DV, V, {});
            for (int64_t j = 0; j < sub.n; ++j) {
                if (p[j] == 0.0f) {
                    memset(V + j*op.DV, 0, op.DV*sizeof(float));
                }
            }
            gemm(h.cur.O + r*op.DV, p, V, 1, sub.n_pad, op.DV);
        }
    }
};

#endif // FATTN_ORDERED
