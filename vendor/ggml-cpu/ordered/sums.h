#pragma once

// what rows have summed up over some chunks, how that of one chunk joins it, and what becomes of it in the end

#include "op.h"
#include "rows.h"

#include "vec.h"

#include <cmath>
#include <cstring>

#if defined(FATTN_ORDERED)

// the maximum and sum of each row, and its output times the sum
struct fattn_sums {
    float * M;
    float * S;
    float * O; // [n_rows][DV]

    void clear(int64_t n_rows, int64_t DV) const {
        std::fill(M, M + n_rows, -INFINITY);
        std::fill(S, S + n_rows, 0.0f);
        std::fill(O, O + n_rows*DV, 0.0f);
    }

    // of the rows from one on
    fattn_sums from(int64_t row, int64_t DV) const {
        return { M + row, S + row, O + row*DV };
    }
};

// the rows of one head of K and V
struct fattn_head {
    int64_t    i;
    float    * Q;      // [n_rows][DK]
    float    * slopes; // [n_rows]
    fattn_sums cur;    // of a chunk
    fattn_sums total;  // of all chunks so far
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

#endif // FATTN_ORDERED
