// one attention op by itself, to see its numbers

#include "op.h"
#include "treellama-attention.h"

#include "ordered/order.h"

#include "ggml-backend.h"
#include "ggml-cpp.h"

#include <new>
#include <vector>

static void set_from_f32(ggml_tensor * tensor, const float * data) {
    if (tensor->type == GGML_TYPE_F32) {
        ggml_backend_tensor_set(tensor, data, 0, ggml_nbytes(tensor));
        return;
    }

    std::vector<char> converted(ggml_nbytes(tensor));
    ggml_quantize_chunk(tensor->type, data, converted.data(), 0, ggml_nrows(tensor), tensor->ne[0], nullptr);
    ggml_backend_tensor_set(tensor, converted.data(), 0, converted.size());
}

int32_t treellama_attention(const treellama_attention_params * p, const float * q, const float * k, const float * v,
        const float * mask, const int32_t * order, const float * sinks, float * out) {
    return treellama_catch(TREELLAMA_EXCEPTION, [&] {
        ggml_backend_ptr backend { treellama_cpu_backend() };

        ggml_context_ptr ctx { ggml_init({ 32*ggml_tensor_overhead() + ggml_graph_overhead(), nullptr, true }) };

        // K and V as in a cache: a cell's heads are one row. Q as it comes from the projections
        ggml_tensor * tq = ggml_new_tensor_4d(ctx.get(), GGML_TYPE_F32, p->n_embd_k, p->n_head,    p->n_tokens, p->n_streams);
        ggml_tensor * tk = ggml_new_tensor_4d(ctx.get(), p->type_k,     p->n_embd_k, p->n_head_kv, p->n_kv,     p->n_streams);
        ggml_tensor * tv = ggml_new_tensor_4d(ctx.get(), p->type_v,     p->n_embd_v, p->n_head_kv, p->n_kv,     p->n_streams);
        ggml_tensor * tm = ggml_new_tensor_4d(ctx.get(), GGML_TYPE_F16, p->n_kv, p->n_tokens, 1, p->n_streams);
        ggml_tensor * to = order ? ggml_new_tensor_2d(ctx.get(), GGML_TYPE_I32, p->n_order, p->n_streams) : nullptr;
        ggml_tensor * ts = sinks ? ggml_new_tensor_1d(ctx.get(), GGML_TYPE_F32, p->n_head) : nullptr;

        ggml_tensor * res = ggml_flash_attn_ext(ctx.get(),
                ggml_permute(ctx.get(), tq, 0, 2, 1, 3),
                ggml_permute(ctx.get(), tk, 0, 2, 1, 3),
                ggml_permute(ctx.get(), tv, 0, 2, 1, 3),
                tm, p->scale, p->max_bias, p->softcap);
        ggml_flash_attn_ext_add_sinks(res, ts);
        if (to) {
            ggml_flash_attn_ext_set_order(res, to);
        }

        ggml_cgraph * gf = ggml_new_graph(ctx.get());
        ggml_build_forward_expand(gf, res);

        ggml_backend_buffer_ptr buffer { ggml_backend_alloc_ctx_tensors(ctx.get(), backend.get()) };
        if (!buffer) {
            throw std::bad_alloc();
        }

        ggml_backend_tensor_set(tq, q, 0, ggml_nbytes(tq));
        set_from_f32(tk, k);
        set_from_f32(tv, v);
        set_from_f32(tm, mask);
        if (to) {
            ggml_backend_tensor_set(to, order, 0, ggml_nbytes(to));
        }
        if (ts) {
            ggml_backend_tensor_set(ts, sinks, 0, ggml_nbytes(ts));
        }

        treellama_compute(backend.get(), gf, p->n_threads, p->use_ref, "the attention");
        ggml_backend_tensor_get(res, out, 0, ggml_nbytes(res));

        return 0;
    });
}
