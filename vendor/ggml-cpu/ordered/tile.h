#pragma once

// one tile of attention: some rows (queries times heads) of a head of K and V, summed chunk by chunk

#include "gemm.h"
#include "op.h"
#include "pack.h"
#include "rows.h"

#include <algorithm>
#include <cmath>
#include <cstring>

#if defined(FATTN_ORDERED)

// what a tile has summed up: the maximum and sum of each row, and its output times the sum
struct fattn_sums {
    float * M;
    float * S;
    float * O; // [n_rows][DV]
};

// join the sums of a chunk to those of the chunks before it
static void join_row(int64_t DV, float & MT, float & ST, float * OT, float M, float S, const float * O) {
    if (M == -INFINITY) {
        return;
    }

    const float Mnew = std::max(MT, M);
    const float a    = expf(MT - Mnew);
    const float b    = expf(M  - Mnew);

    vec_join(DV, OT, a, O, b);
    vec_join(1, &ST, a, &S, b);

    MT = Mnew;
}

// p = p*scale, capped, plus slope*mask. n is a multiple of N_LANES
static void finish_scores(const fattn_op & op, int64_t n, float * p, const float * mask, float slope) {
    const GGML_F32_VEC vscale = GGML_F32_VEC_SET1(op.scale);
    const GGML_F32_VEC vslope = GGML_F32_VEC_SET1(slope);

    if (op.softcap == 0.0f) {
        for (int64_t j = 0; j < n; j += GGML_F32_EPR) {
            const GGML_F32_VEC s = GGML_F32_VEC_MUL(GGML_F32_VEC_LOAD(p + j), vscale);
            GGML_F32_VEC_STORE(p + j, GGML_F32_VEC_FMA(s, GGML_F32_VEC_LOAD(mask + j), vslope));
        }
        return;
    }

    const GGML_F32_VEC vcap = GGML_F32_VEC_SET1(op.softcap);

    for (int64_t j = 0; j < n; j += GGML_F32_EPR) {
        GGML_F32_VEC_STORE(p + j, GGML_F32_VEC_MUL(GGML_F32_VEC_LOAD(p + j), vscale));
    }
    for (int64_t j = 0; j < n; ++j) {
        p[j] = tanhf(p[j]);
    }
    for (int64_t j = 0; j < n; j += GGML_F32_EPR) {
        const GGML_F32_VEC s = GGML_F32_VEC_MUL(GGML_F32_VEC_LOAD(p + j), vcap);
        GGML_F32_VEC_STORE(p + j, GGML_F32_VEC_FMA(s, GGML_F32_VEC_LOAD(mask + j), vslope));
    }
}

// one tile: rows [row0, row0 + n_rows) of a head of K and V, row = token*n_per_kv + head
struct fattn_tile {
    const fattn_op    & op;
    const fattn_group & group;

    const int64_t head;
    const int64_t row0;
    const int64_t n_rows;
    const int64_t t0;   // first token
    const int64_t n_t;  // tokens

    float * Q;    // [n_rows][DK]
    float * KT;   // [DK][N_SUB]
    float * rows; // [8][DK]
    float * V;    // [N_SUB][DV]
    float * P;    // [sub][n_rows][N_SUB]
    float * mask; // [sub][n_t][N_SUB]

    float   * slopes;  // [n_rows]
    int32_t * seen;    // [sub] any cell is seen by any row
    int32_t * aligned; // [sub] cells stand at consecutive positions, the first in the first lane

    fattn_sums cur;   // of a chunk
    fattn_sums total; // of all chunks so far

    bool is_strict; // leave hidden cells out, instead of giving them no weight

    fattn_tile(const fattn_op & op, const fattn_group & group, int64_t i_unit, char * scratch) :
        op(op), group(group),
        head(i_unit/group.n_tiles),
        row0((i_unit%group.n_tiles)*group.n_rows_tile),
        n_rows(std::min(group.n_rows_tile, group.n_tokens*op.n_per_kv - row0)),
        t0(row0/op.n_per_kv),
        n_t((row0 + n_rows - 1)/op.n_per_kv - t0 + 1) {

        Q       = (float *) GGML_PAD((uintptr_t) scratch, SCRATCH_ALIGN);
        KT      = Q       + N_ROWS*op.DK;
        rows    = KT      + N_SUB*op.DK;
        V       = rows    + 8*op.DK;
        cur.O   = V       + N_SUB*op.DV;
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

        clear(total);
    }

    // what is needed to add chunks, not to join them
    void load_queries() {
        for (int64_t r = 0; r < n_rows; ++r) {
            memcpy(Q + r*op.DK, (const char *) op.q->data + token(r)*op.q->nb[1] + q_head(r)*op.q->nb[2] + group.i3*op.q->nb[3], op.DK*sizeof(float));
            slopes[r] = slope(q_head(r));
        }
    }

    int64_t token (int64_t r) const { return group.tokens[(row0 + r)/op.n_per_kv]; }
    int64_t q_head(int64_t r) const { return head*op.n_per_kv + (row0 + r)%op.n_per_kv; }

    // the row among all rows of the op
    int64_t row_id(int64_t r) const { return group.i_row + head*group.n_tokens*op.n_per_kv + row0 + r; }

    void clear(fattn_sums & sums) const {
        std::fill(sums.M, sums.M + n_rows, -INFINITY);
        std::fill(sums.S, sums.S + n_rows, 0.0f);
        std::fill(sums.O, sums.O + n_rows*op.DV, 0.0f);
    }

    float slope(uint32_t h) const {
        if (op.max_bias <= 0.0f) {
            return 1.0f;
        }

        const uint32_t n_head_log2 = 1u << (uint32_t) floor(log2(op.n_heads));

        const float m0 = powf(2.0f, -(op.max_bias       ) / n_head_log2);
        const float m1 = powf(2.0f, -(op.max_bias / 2.0f) / n_head_log2);

        return h < n_head_log2 ? powf(m0, h + 1) : powf(m1, 2*(h - n_head_log2) + 1);
    }

    // the cells of one block of positions
    void add_block(int64_t begin, int64_t end) {
        bool any = false;

        for (int64_t b = begin; b < end; b += N_SUB) {
            any |= score(b, std::min(N_SUB, end - b), (b - begin)/N_SUB);
        }

        if (!any) {
            return;
        }

        for (int64_t r = 0; r < n_rows; ++r) {
            weigh(r, begin, end);
        }

        for (int64_t b = begin; b < end; b += N_SUB) {
            const int64_t s     = (b - begin)/N_SUB;
            const int64_t n     = std::min(N_SUB, end - b);
            const int64_t n_pad = GGML_PAD(n, N_LANES);

            if (!seen[s]) {
                continue;
            }

            const float * P_s = P + s*n_rows*N_SUB;

            if (!is_strict) {
                pack_v(op, head, group.i3, group.cells + b, n, n_pad, V);
                gemm(cur.O, P_s, V, n_rows, n_pad, op.DV);
                continue;
            }

            for (int64_t r = 0; r < n_rows; ++r) {
                const float * p = P_s + r*n_pad;

                pack_v(op, head, group.i3, group.cells + b, n, n_pad, V);
                for (int64_t j = 0; j < n; ++j) {
                    if (p[j] == 0.0f) {
                        memset(V + j*op.DV, 0, op.DV*sizeof(float));
                    }
                }
                gemm(cur.O + r*op.DV, p, V, 1, n_pad, op.DV);
            }
        }
    }

    // scores of n cells for all rows; false if all are hidden from all rows
    bool score(int64_t begin, int64_t n, int64_t s) {
        const int64_t   n_pad = GGML_PAD(n, N_LANES);
        const int32_t * cells = group.cells + begin;

        float * mask_s = mask + s*n_t*N_SUB;
        float * P_s    = P    + s*n_rows*N_SUB;

        const bool is_run = counts_up(cells, n);

        aligned[s] = group.pos[begin] % N_LANES == 0 && counts_up(group.pos + begin, n);

        seen[s] = false;
        for (int64_t t = 0; t < n_t; ++t) {
            const char * mp = (const char *) op.mask->data + group.tokens[t0 + t]*op.mask->nb[1] + (group.i3%op.mask->ne[3])*op.mask->nb[3];
            seen[s] |= (int32_t) gather_mask((const ggml_fp16_t *) mp, cells, n, n_pad, is_run, mask_s + t*N_SUB);
        }

        if (!seen[s]) {
            return false;
        }

        pack_k(op, head, group.i3, cells, n, n_pad, rows, KT);

        memset(P_s, 0, n_rows*n_pad*sizeof(float));
        gemm(P_s, Q, KT, n_rows, op.DK, n_pad);

        for (int64_t r = 0; r < n_rows; ++r) {
            const float * mask_r = mask_s + ((row0 + r)/op.n_per_kv - t0)*N_SUB;

            finish_scores(op, n_pad, P_s + r*n_pad, mask_r, slopes[r]);

            for (int64_t j = 0; is_strict && j < n; ++j) {
                if (mask_r[j] == -INFINITY) {
                    P_s[r*n_pad + j] = -INFINITY;
                }
            }
        }

        return true;
    }

    // a row's scores of a block into weights, relative to the largest score so far
    void weigh(int64_t r, int64_t begin, int64_t end) {
        float lanes[N_LANES];
        std::fill(lanes, lanes + N_LANES, -INFINITY);

        for_each_sub(r, begin, end, [&](int64_t, int64_t, int64_t n_pad, float * p) {
            lanes_max(lanes, p, n_pad);
        });
        float M = *std::max_element(lanes, lanes + N_LANES);

        // all hidden from this row
        if (M == -INFINITY) {
            for_each_sub(r, begin, end, [&](int64_t, int64_t, int64_t n_pad, float * p) {
                memset(p, 0, n_pad*sizeof(float));
            });
            return;
        }

        const float Mold = cur.M[r];

        if (M > Mold) {
            const float ms = expf(Mold - M);

            ggml_vec_scale_f32(op.DV, cur.O + r*op.DV, ms);
            cur.S[r] *= ms;
            cur.M[r]  = M;
        } else {
            M = Mold;
        }

        std::fill(lanes, lanes + N_LANES, 0.0f);

        for_each_sub(r, begin, end, [&](int64_t b, int64_t n, int64_t n_pad, float * p) {
            ggml_vec_soft_max_f32(n_pad, p, p, M);

            const int32_t * pos = group.pos + b;

            // most text stands where the lanes are, and gets the same sums faster
            if (aligned[(b - begin)/N_SUB]) {
                lanes_add(lanes, p, n_pad);
            } else {
                for (int64_t j = 0; j < n; ++j) {
                    lanes[pos[j] % N_LANES] += p[j];
                }
            }
        });

        for (int l = N_LANES/2; l > 0; l /= 2) {
            for (int i = 0; i < l; ++i) {
                lanes[i] += lanes[i + l];
            }
        }

        cur.S[r] += lanes[0];
    }

    template <typename F>
    void for_each_sub(int64_t r, int64_t begin, int64_t end, F && f) {
        for (int64_t b = begin; b < end; b += N_SUB) {
            const int64_t s     = (b - begin)/N_SUB;
            const int64_t n     = std::min(N_SUB, end - b);
            const int64_t n_pad = GGML_PAD(n, N_LANES);

            if (seen[s]) {
                f(b, n, n_pad, P + s*n_rows*N_SUB + r*n_pad);
            }
        }
    }

    // the cells of one chunk of positions, summed up from nothing into cur
    void add_chunk(int64_t chunk) {
        is_strict = false;
        sum_chunk(chunk);

        if (!vec_is_finite(n_rows*op.DV, cur.O)) {
            is_strict = true;
            sum_chunk(chunk);
        }
    }

    void sum_chunk(int64_t chunk) {
        clear(cur);

        const int64_t end = group.chunk_begin(chunk + 1);

        for (int64_t begin = group.chunk_begin(chunk); begin < end;) {
            int64_t e = begin + 1;
            while (e < end && group.pos[e]/N_BLOCK == group.pos[begin]/N_BLOCK) {
                ++e;
            }
            add_block(begin, e);
            begin = e;
        }
    }

    void join() {
        for (int64_t r = 0; r < n_rows; ++r) {
            join_row(op.DV, total.M[r], total.S[r], total.O + r*op.DV, cur.M[r], cur.S[r], cur.O + r*op.DV);
        }
    }

    void write() {
        for (int64_t r = 0; r < n_rows; ++r) {
            write_row(op, token(r), q_head(r), group.i3, total.M[r], total.S[r], total.O + r*op.DV);
        }
    }

    static void write_row(const fattn_op & op, int64_t token, int64_t head, int64_t i3, float M, float S, float * O) {
        if (op.sinks) {
            const float s = ((const float *) op.sinks->data)[head];

            if (s > M) {
                const float ms = expf(M - s);

                ggml_vec_scale_f32(op.DV, O, ms);
                S = S*ms + 1.0f;
            } else {
                S += expf(s - M);
            }
        }

        const float S_inv = S == 0.0f ? 0.0f : 1.0f/S;
        ggml_vec_scale_f32(op.DV, O, S_inv);

        // permute(0, 2, 1, 3)
        memcpy((char *) op.dst->data + head*op.dst->nb[1] + token*op.dst->nb[2] + i3*op.dst->nb[3], O, op.DV*sizeof(float));
    }
};

#endif // FATTN_ORDERED
