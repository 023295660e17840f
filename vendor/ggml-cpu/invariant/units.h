#pragma once

// how the rows and columns of a product are cut into units, which the threads of a pass share among them

#include "op.h"

#include "ggml-cpu-impl.h"

#include <atomic>

#if defined(INVARIANT)

// A thread begins with the unit of its own number and, as long as units are below n_units, does one and asks for its next.
// The count of units done is kept in the last of the op's parameters, which no product uses. It ends where it began, at 0,
// so that no op needs a barrier to set it.
static int next_unit(const ggml_tensor * dst, int nth, int n_units) {
    static_assert(sizeof(std::atomic<int32_t>) == sizeof(int32_t), "a parameter of an op is one integer");

    constexpr size_t i_last = GGML_MAX_OP_PARAMS/sizeof(int32_t) - 1;
    auto & n_done = *(std::atomic<int32_t> *) (const_cast<ggml_tensor *>(dst)->op_params + i_last);

    const int32_t n = n_done.fetch_add(1, std::memory_order_relaxed) + 1;
    if (n == n_units) {
        n_done.store(0, std::memory_order_relaxed);
    }
    return nth + n - 1;
}

struct product_units {
    int64_t n_groups; // of rows
    int64_t n_in_rows;
    int64_t n_cols_unit;

    // units at the begin that are larger than the others
    int64_t n_large        = 0;
    int64_t n_large_groups = 0; // of all of them

    product_units(const product_op & op, int64_t n_matrices, int64_t n_cols, int nth) {
        n_cols_unit = std::max<int64_t>(64, L2_SIZE/op.n_k/64*64);
        n_cols_unit = std::min(n_cols_unit, N_COLS_UNIT);
        n_groups    = (op.n_rows + N_ROWS - 1)/N_ROWS;

        if (ggml_is_numa()) {
            n_in_rows = std::min<int64_t>(nth, n_groups);
        } else if (n_matrices*n_in_cols(n_cols) == 1) {
            // every unit begins with a wait for memory: a large one for each thread, and then what evens out the threads
            n_large        = nth;
            n_large_groups = n_groups*7/8/nth*nth;
            n_in_rows      = nth + std::min<int64_t>(nth, n_groups - n_large_groups);
        } else {
            n_in_rows = std::max((op.n_rows + N_ROWS_UNIT - 1)/N_ROWS_UNIT, (4*nth + n_matrices - 1)/n_matrices);
            n_in_rows = std::min(n_in_rows, n_groups);
        }
    }

    int64_t n_in_cols(int64_t n_cols) const {
        return (n_cols + n_cols_unit - 1)/n_cols_unit;
    }

    // of the large units as of the others, two differ by one group at most
    int64_t first_row(int64_t i) const {
        const int64_t group = i < n_large ? i*n_large_groups/n_large :
            n_large_groups + (i - n_large)*(n_groups - n_large_groups)/(n_in_rows - n_large);
        return group*N_ROWS;
    }
};

template <typename P, typename F>
static void multiply_unit(const product_op & op, const product_units & units, int64_t i_rows, int64_t i_cols, const char * w, int64_t n_cols, F col) {
    const product_rows rows = {
        w,
        op.w->nb[1],
        units.first_row(i_rows),
        std::min(op.n_rows, units.first_row(i_rows + 1)),
    };

    product_cols cols;

    const int64_t first = i_cols*units.n_cols_unit;
    cols.n = std::min(units.n_cols_unit, n_cols - first);
    for (int64_t i = 0; i < cols.n; ++i) {
        col(first + i, cols.acts[i], cols.outs[i]);
    }

    P::multiply(op, rows, cols);
}

template <typename P>
static void multiply_matrix_unit(const product_op & op, const product_units & units, int64_t unit) {
    const ggml_tensor * dst = op.dst;

    const int64_t n_cols    = dst->ne[1];
    const int64_t n_in_cols = units.n_in_cols(n_cols);

    const int64_t i_rows = unit % units.n_in_rows;
    const int64_t i_cols = unit/units.n_in_rows % n_in_cols;
    const int64_t i2     = unit/units.n_in_rows/n_in_cols % dst->ne[2];
    const int64_t i3     = unit/units.n_in_rows/n_in_cols/dst->ne[2];

    const int64_t w2 = i2/(dst->ne[2]/op.w->ne[2]);
    const int64_t w3 = i3/(dst->ne[3]/op.w->ne[3]);

    const char * w = (const char *) op.w->data + w2*op.w->nb[2] + w3*op.w->nb[3];

    multiply_unit<P>(op, units, i_rows, i_cols, w, n_cols, [&](int64_t i, const char * & act, float * & out) {
        act = op.act_row(i + (i2 + i3*dst->ne[2])*n_cols);
        out = (float *) ((char *) dst->data + i*dst->nb[1] + i2*dst->nb[2] + i3*dst->nb[3]);
    });
}

template <typename P>
static void multiply_expert_unit(const product_op & op, const product_units & units, int64_t expert, int64_t unit) {
    const ggml_tensor * dst = op.dst;

    const char       * w    = (const char *) op.w->data + expert*op.w->nb[2];
    const expert_row * rows = op.expert_rows + expert*op.n_slots();

    multiply_unit<P>(op, units, unit % units.n_in_rows, unit/units.n_in_rows, w, op.counts[expert], [&](int64_t i, const char * & act, float * & out) {
        act = op.act_row(rows[i].slot % op.x->ne[1] + rows[i].token*op.x->ne[1]);
        out = (float *) ((char *) dst->data + rows[i].slot*dst->nb[1] + rows[i].token*dst->nb[2]);
    });
}

// the units of all experts are counted through
template <typename P>
static void multiply_experts(const ggml_compute_params * params, const product_op & op) {
    int64_t n_active = 0;
    for (int64_t i = 0; i < op.n_experts; ++i) {
        n_active += op.counts[i] > 0;
    }

    const product_units units(op, n_active, op.n_x, params->nth);

    int64_t n_units = 0;
    for (int64_t i = 0; i < op.n_experts; ++i) {
        n_units += units.n_in_rows*units.n_in_cols(op.counts[i]);
    }

    int64_t unit   = params->ith;
    int64_t begin  = 0;
    for (int64_t i = 0; i < op.n_experts; ++i) {
        const int64_t n = units.n_in_rows*units.n_in_cols(op.counts[i]);
        while (unit < begin + n) {
            multiply_expert_unit<P>(op, units, i, unit - begin);
            unit = next_unit(op.dst, params->nth, n_units);
        }
        begin += n;
    }
}

template <typename P>
static void multiply_matrices(const ggml_compute_params * params, const product_op & op) {
    const int64_t n_matrices = op.dst->ne[2]*op.dst->ne[3];

    const product_units units(op, n_matrices, op.dst->ne[1], params->nth);

    const int64_t n = n_matrices*units.n_in_rows*units.n_in_cols(op.dst->ne[1]);
    for (int64_t unit = params->ith; unit < n; unit = next_unit(op.dst, params->nth, n)) {
        multiply_matrix_unit<P>(op, units, unit);
    }
}

#endif // INVARIANT
