#pragma once

// one product: its tensors, what it keeps in the work buffer, and the rows and columns that are multiplied together

#include "acts.h"
#include "blocks.h"
#include "dots.h"
#include "invariant.h"
#include "products-amx.h"

#include "ggml-impl.h"

#include <algorithm>
#include <cstring>

#if defined(INVARIANT)

// a unit of work has at most so many rows and columns
static constexpr int64_t N_ROWS_UNIT = 256;
static constexpr int64_t N_COLS_UNIT = 256;

static constexpr int64_t L2_SIZE = 512*1024; // of a small CPU

// so few activations are prepared by every thread for itself, which takes less time than to wait for the others
static constexpr int64_t N_ACTS_PRIVATE = 4096;

// rows of activations that are read behind the last one
#if defined(INVARIANT_AMX)
static constexpr int64_t N_COLS_PAST = N_COLS_AMX - 1;
#else
static constexpr int64_t N_COLS_PAST = 0;
#endif

static_assert(N_ROWS % N_DOT_ROWS == 0, "rows must nest");

struct expert_row {
    int32_t slot;
    int32_t token;
};

struct product_op {
    const ggml_tensor * w;
    const ggml_tensor * x;
    const ggml_tensor * ids; // of experts, or nullptr
    ggml_tensor       * dst;

    int64_t n_k;
    int64_t n_rows;
    int64_t n_x;       // rows of activations
    int64_t n_experts; // 0 without ids

    bool    is_packed; // are the weights in the layout of pack_rows()?

    size_t  act_size;  // bytes of a row of activations in the work buffer, 0 where they are used as they are

    bool    is_private; // does each thread have a part of the work buffer, or do all share it?
    size_t  part_size;
    size_t  work_size;

    // in the work buffer
    char       * acts;
    int32_t    * counts;      // [n_experts]
    expert_row * expert_rows; // [n_experts][all slots of all tokens]

    product_op(const ggml_tensor * dst, size_t act_size, int n_threads) :
        w(dst->src[0]),
        x(dst->src[1]),
        ids(dst->op == GGML_OP_MUL_MAT_ID ? dst->src[2] : nullptr),
        dst(const_cast<ggml_tensor *>(dst)),
        n_k(w->ne[0]),
        n_rows(w->ne[1]),
        n_x(ggml_nrows(x)),
        n_experts(ids ? w->ne[2] : 0),
        is_packed(ggml_cpu_invariant_is_packed(w)),
        act_size(act_size),
        is_private(n_x*n_k <= N_ACTS_PRIVATE) {
        part_size = GGML_PAD(acts_size() + counts_size() + n_experts*n_slots()*sizeof(expert_row), 64);
        work_size = 64 + part_size*(is_private ? n_threads : 1);
    }

    void use(char * wdata, int ith) {
        acts        = (char *) GGML_PAD((uintptr_t) wdata, 64) + (is_private ? ith*part_size : 0);
        counts      = (int32_t *)    (acts + acts_size());
        expert_rows = (expert_row *) (acts + acts_size() + counts_size());
    }

    size_t acts_size() const {
        return (n_x + N_COLS_PAST)*act_size;
    }

    size_t counts_size() const {
        return GGML_PAD(n_experts*sizeof(int32_t), 64);
    }

    int64_t n_slots() const {
        return ids ? ids->ne[0]*ids->ne[1] : 0;
    }

    const char * x_row(int64_t i) const {
        const int64_t i3 = i/(x->ne[1]*x->ne[2]);
        const int64_t i2 = i/x->ne[1] % x->ne[2];
        const int64_t i1 = i % x->ne[1];
        return (const char *) x->data + i1*x->nb[1] + i2*x->nb[2] + i3*x->nb[3];
    }

    const char * act_row(int64_t i) const {
        return act_size ? acts + i*act_size : x_row(i);
    }
};

// the columns of one matrix that are computed together
struct product_cols {
    int64_t      n;
    const char * acts[N_COLS_UNIT];
    float      * outs[N_COLS_UNIT];
};

// rows of one matrix
struct product_rows {
    const char * data;
    size_t       stride;
    int64_t      begin;
    int64_t      end;

    // of those behind the end, the last one
    const char * at(int64_t i) const {
        return data + std::min(i, end - 1)*stride;
    }
};

static void group_by_expert(const product_op & op) {
    memset(op.counts, 0, op.n_experts*sizeof(int32_t));

    for (int64_t token = 0; token < op.ids->ne[1]; ++token) {
        for (int64_t slot = 0; slot < op.ids->ne[0]; ++slot) {
            const int32_t expert = *(const int32_t *) ((const char *) op.ids->data + token*op.ids->nb[1] + slot*op.ids->nb[0]);
            GGML_ASSERT(expert >= 0 && expert < op.n_experts);
            op.expert_rows[expert*op.n_slots() + op.counts[expert]++] = { (int32_t) slot, (int32_t) token };
        }
    }
}

#endif // INVARIANT
