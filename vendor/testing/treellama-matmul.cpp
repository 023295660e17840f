// one matrix product by itself, to see its numbers

#include "op.h"
#include "treellama-matmul.h"

#include "ggml-backend.h"
#include "ggml-cpp.h"

#include <cstring>
#include <new>
#include <stdexcept>

int32_t treellama_quantize_rows(ggml_type type, const float * values, int64_t n_rows, int64_t n_per_row, void * data) {
    return treellama_guard(TREELLAMA_EXCEPTION, [&]() -> int32_t {
        if (ggml_quantize_requires_imatrix(type)) {
            throw std::runtime_error(std::string(ggml_type_name(type)) + " needs an importance matrix");
        }
        ggml_quantize_chunk(type, values, data, 0, n_rows, n_per_row, nullptr);
        return 0;
    });
}

int32_t treellama_dequantize_rows(ggml_type type, const void * data, int64_t n_rows, int64_t n_per_row, float * values) {
    return treellama_guard(TREELLAMA_EXCEPTION, [&]() -> int32_t {
        if (type == GGML_TYPE_F32) {
            memcpy(values, data, n_rows*n_per_row*sizeof(float));
        } else {
            ggml_get_type_traits(type)->to_float(data, values, n_rows*n_per_row);
        }
        return 0;
    });
}

int32_t treellama_matmul(const treellama_matmul_params * p, const void * w, const float * x, const int32_t * ids, float * out) {
    return treellama_catch(TREELLAMA_EXCEPTION, [&] {
        ggml_backend_ptr backend { treellama_cpu_backend() };

        // weights have a buffer of their own, as a model's do
        ggml_context_ptr ctx_w { ggml_init({ ggml_tensor_overhead(), nullptr, true }) };
        ggml_context_ptr ctx   { ggml_init({ 4*ggml_tensor_overhead() + ggml_graph_overhead(), nullptr, true }) };

        ggml_tensor * tw = ggml_new_tensor_3d(ctx_w.get(), p->type, p->n_in, p->n_out, p->n_experts);
        ggml_tensor * tx = ids ?
            ggml_new_tensor_3d(ctx.get(), GGML_TYPE_F32, p->n_in, p->n_inputs, p->n_tokens) :
            ggml_new_tensor_2d(ctx.get(), GGML_TYPE_F32, p->n_in, p->n_tokens);
        ggml_tensor * ti = ids ? ggml_new_tensor_2d(ctx.get(), GGML_TYPE_I32, p->n_used, p->n_tokens) : nullptr;

        ggml_tensor * res = ids ?
            ggml_mul_mat_id(ctx.get(), tw, tx, ti) :
            ggml_mul_mat   (ctx.get(), tw, tx);

        ggml_cgraph * gf = ggml_new_graph(ctx.get());
        ggml_build_forward_expand(gf, res);

        ggml_backend_buffer_type_t type_w = treellama_weight_buffer_type(ggml_backend_get_device(backend.get()), res, p->packed);
        ggml_backend_buffer_ptr buffer_w { ggml_backend_alloc_ctx_tensors_from_buft(ctx_w.get(), type_w) };
        ggml_backend_buffer_ptr buffer   { ggml_backend_alloc_ctx_tensors(ctx.get(), backend.get()) };
        if (!buffer_w || !buffer) {
            throw std::bad_alloc();
        }
        ggml_backend_buffer_set_usage(buffer_w.get(), GGML_BACKEND_BUFFER_USAGE_WEIGHTS);

        // NaN, so that whoever adds to what was in the result before shows
        ggml_backend_buffer_clear(buffer.get(), 0xFF);

        ggml_backend_tensor_set(tw, w, 0, ggml_nbytes(tw));
        ggml_backend_tensor_set(tx, x, 0, ggml_nbytes(tx));
        if (ti) {
            ggml_backend_tensor_set(ti, ids, 0, ggml_nbytes(ti));
        }

        treellama_compute(backend.get(), gf, p->n_threads, p->use_ref, "the product");
        ggml_backend_tensor_get(res, out, 0, ggml_nbytes(res));

        return 0;
    });
}
