#pragma once

// one attention op: its tensors, and in which order it sums

#include "order.h"

#include "ggml-cpu-impl.h"
#include "ggml-impl.h"
#include "simd-gemm.h"

#include <algorithm>
#include <cmath>
#include <cstring>

// the arithmetic needs the vectors of simd-gemm.h: elsewhere one element is not computed as another
#if defined(GGML_SIMD) && !defined(__ARM_FEATURE_SVE) && !defined(__riscv_v_intrinsic)
#define FATTN_ORDERED
#endif

#if defined(FATTN_ORDERED)

// the order of all sums, functions of positions alone:
//   - a score is one chain of FMAs over the head's channels
//   - positions are cut into blocks. the running maximum changes once a block
//   - an output channel is one chain of FMAs over the cells of a chunk, rescaled once a block
//   - the sum of the weights has a lane for each position modulo N_LANES, which are joined once a block
//   - chunks begin with nothing, and are joined in order, also where one thread computes all of them
// a masked cell has the weight 0.0f, which changes no sum. where it would, since the cell holds an infinity or NaN, a chunk
//   is summed again without what its rows do not see
static constexpr int64_t N_BLOCK = FATTN_ORDER_BLOCK;
static constexpr int64_t N_CHUNK = FATTN_ORDER_CHUNK;
static constexpr int     N_LANES = 16;

// scratch: rows (queries times heads) of a tile, cells that are converted at a time. kernels take 4 or 6 rows together
static constexpr int64_t N_ROWS = 60;
static constexpr int64_t N_SUB  = 64;

static constexpr size_t SCRATCH_ALIGN = 64;

static_assert(N_CHUNK % N_BLOCK == 0 && N_BLOCK % N_LANES == 0 && N_SUB % N_LANES == 0, "cuts must nest");
static_assert(N_LANES % GGML_F32_EPR == 0, "a lane must stay in its place");

// the tensors, their shapes, and how the work is cut
struct fattn_op {
    const ggml_tensor * q;
    const ggml_tensor * k;
    const ggml_tensor * v;
    const ggml_tensor * mask;
    const ggml_tensor * order;
    const ggml_tensor * sinks;
    ggml_tensor       * dst;

    float scale;
    float max_bias;
    float softcap;

    int64_t DK;
    int64_t DV;
    int64_t n_kv;
    int64_t n_heads;    // of Q
    int64_t n_heads_kv;
    int64_t n_per_kv;   // heads of Q for one of K and V
    int64_t n_streams;

    int64_t n_scores;   // floats for the scores of a tile
    int64_t n_slots;    // chunks of a row whose results can be kept apart
    size_t  partials;   // bytes of them, for all rows
    size_t  scratch;    // bytes, of one thread

    explicit fattn_op(const ggml_tensor * t) :
        q(t->src[0]), k(t->src[1]), v(t->src[2]), mask(t->src[3]), order(t->src[5]), sinks(t->src[4]), dst(const_cast<ggml_tensor *>(t)) {
        memcpy(&scale,    (const float *) t->op_params + 0, sizeof(float));
        memcpy(&max_bias, (const float *) t->op_params + 1, sizeof(float));
        memcpy(&softcap,  (const float *) t->op_params + 2, sizeof(float));

        if (softcap != 0.0f) {
            scale /= softcap;
        }

        DK         = k->ne[0];
        DV         = v->ne[0];
        n_kv       = k->ne[1];
        n_heads    = q->ne[2];
        n_heads_kv = k->ne[2];
        n_per_kv   = n_heads/n_heads_kv;
        n_streams  = q->ne[3];

        // a block holds siblings beyond its positions: with more of them than positions, fewer rows fit
        n_scores = std::max<int64_t>(N_ROWS*2*N_BLOCK, GGML_PAD(n_kv, N_SUB) + N_SUB);

        n_slots  = n_kv/N_CHUNK + 2;
        partials = sizeof(float)*q->ne[1]*n_heads*n_streams*n_slots*(2 + DV);
        // K and V are never packed at the same time
        const int64_t D = std::max(DK, DV);

        scratch = N_SUB*ggml_row_size(GGML_TYPE_Q8_0, GGML_PAD(D, 32)) + SCRATCH_ALIGN +
            sizeof(float)*(N_ROWS*DK + N_SUB*D + 8*DK + 2*N_ROWS*DV + 5*N_ROWS + 2*n_scores + 2*n_scores/N_SUB);
    }

    const int32_t * order_row(int64_t i3) const {
        return (const int32_t *) ((const char *) order->data + i3*order->nb[1]);
    }

    // of a token's results among all
    int64_t row_id(int64_t token, int64_t head, int64_t i3) const {
        return (i3*q->ne[1] + token)*n_heads + head;
    }

    // of ALiBi
    float slope(uint32_t head) const {
        if (max_bias <= 0.0f) {
            return 1.0f;
        }

        const uint32_t n_head_log2 = 1u << (uint32_t) floor(log2(n_heads));

        const float m0 = powf(2.0f, -(max_bias       ) / n_head_log2);
        const float m1 = powf(2.0f, -(max_bias / 2.0f) / n_head_log2);

        return head < n_head_log2 ? powf(m0, head + 1) : powf(m1, 2*(head - n_head_log2) + 1);
    }
};

#endif // FATTN_ORDERED
