#include "invariant.h"

#include "types.h"
#include "units.h"

#include "ggml-cpu-impl.h"
#include "ggml-impl.h"

#include <cstdlib>

#if defined(INVARIANT)

// blocks of activations, all rows one after the other, are cut evenly into parts
template <typename P>
static void convert_part(const product_op & op, int i_part, int n_parts) {
    const int64_t n_block  = P::act_block(op.dst);
    const int64_t n_blocks = (op.n_k + n_block - 1)/n_block;
    const int64_t n        = op.n_x*n_blocks;
    const int64_t end      = n*(i_part + 1)/n_parts;

    for (int64_t i = n*i_part/n_parts; i < end; ) {
        const int64_t row   = i/n_blocks;
        const int64_t first = i % n_blocks;
        const int64_t last  = std::min(n_blocks, first + end - i);

        P::convert(op, row, first*n_block, std::min(op.n_k, last*n_block));
        i += last - first;
    }
}

template <typename P>
static void prepare(const ggml_compute_params * params, const product_op & op) {
    if (op.act_size) {
        convert_part<P>(op, op.is_private ? 0 : params->ith, op.is_private ? 1 : params->nth);
    }
    if (op.ids && (op.is_private || params->ith == 0)) {
        group_by_expert(op);
    }
    if (!op.is_private && (op.act_size || op.ids)) {
        ggml_barrier(params->threadpool);
    }
}

static bool is_enabled() {
    const char * GGML_CPU_INVARIANT = getenv("GGML_CPU_INVARIANT");
    return !(GGML_CPU_INVARIANT && atoi(GGML_CPU_INVARIANT) == 0);
}

bool ggml_cpu_invariant_enabled(void) {
    static const bool enabled = is_enabled();
    return enabled;
}

// as the conversions of types.h can
static bool can_convert(ggml_type from, ggml_type to) {
    const bool is_half = from == GGML_TYPE_F16 || from == GGML_TYPE_BF16;
    return from == to || from == GGML_TYPE_F32 || (is_half && to == GGML_TYPE_F32);
}

bool ggml_cpu_invariant_supported(const ggml_tensor * dst) {
    const bool is_product = dst->op == GGML_OP_MUL_MAT || dst->op == GGML_OP_MUL_MAT_ID;
    if (!is_product || !ggml_cpu_invariant_enabled()) {
        return false;
    }
    if (dst->op == GGML_OP_MUL_MAT && ggml_get_op_params_i32(dst, 1) == GGML_HINT_SRC0_IS_HADAMARD) {
        return false;
    }

    const ggml_tensor * w = dst->src[0];
    const ggml_tensor * x = dst->src[1];

    const auto * traits = ggml_get_type_traits_cpu(w->type);

    return traits->vec_dot && can_convert(x->type, traits->vec_dot_type) &&
        w->nb[0] == ggml_type_size(w->type) &&
        x->nb[0] == ggml_type_size(x->type) &&
        dst->nb[0] == sizeof(float);
}

size_t ggml_cpu_invariant_work_size(const ggml_tensor * dst, int n_threads) {
    size_t res = 0;
    with_product(dst, [&](auto product) {
        res = product_op(dst, product.act_size(dst), n_threads).work_size;
    });
    return res;
}

void ggml_compute_forward_mul_mat_invariant(const ggml_compute_params * params, ggml_tensor * dst) {
    with_product(dst, [&](auto product) {
        typedef decltype(product) P;

        product_op op(dst, P::act_size(dst), params->nth);
        GGML_ASSERT(params->wsize >= op.work_size);

        op.use((char *) params->wdata, params->ith);
        prepare<P>(params, op);

#if defined(INVARIANT_AMX)
        if (has_amx()) {
            amx_configure();
        }
#endif
        if (op.ids) {
            multiply_experts<P>(params, op);
        } else {
            multiply_matrices<P>(params, op);
        }
    });
}

bool ggml_cpu_invariant_can_pack(const ggml_tensor * w) {
    return with_codes(w->type, [](auto) {}) && ggml_is_contiguous(w) && w->ne[1] % N_ROWS == 0;
}

void ggml_cpu_invariant_pack(ggml_tensor * w, const void * data) {
    with_codes(w->type, [&](auto product) {
        const int64_t n_rows = ggml_nrows(w);
        for (int64_t r = 0; r < n_rows; r += N_ROWS) {
            const size_t at = r*w->nb[1];
            product.pack((const char *) data + at, w->nb[1], w->ne[0], (char *) w->data + at);
        }
    });
}

#else

bool   ggml_cpu_invariant_enabled  (void)                                                 { return false; }
bool   ggml_cpu_invariant_supported(const ggml_tensor *)                                  { return false; }
size_t ggml_cpu_invariant_work_size(const ggml_tensor *, int)                             { return 0; }
void   ggml_compute_forward_mul_mat_invariant(const ggml_compute_params *, ggml_tensor *) {}
bool   ggml_cpu_invariant_can_pack(const ggml_tensor *)                                   { return false; }
void   ggml_cpu_invariant_pack(ggml_tensor *, const void *)                               {}

#endif
