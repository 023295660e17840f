// one of RWKV's recurrent ops by itself, to see its numbers

#include "op.h"
#include "treellama-wkv.h"

#include "ggml-backend.h"
#include "ggml-cpp.h"

#include <new>
#include <vector>

static ggml_tensor * build(
        const treellama_wkv_params & p, ggml_context * ctx, const std::vector<ggml_tensor *> & in, ggml_tensor * bonus,
        ggml_tensor * states) {
    switch (p.kind) {
        case TREELLAMA_WKV6: return ggml_rwkv_wkv6(ctx, in[0], in[1], in[2], bonus, in[3], states);
        case TREELLAMA_WKV7: return ggml_rwkv_wkv7(ctx, in[0], in[1], in[2], in[3], in[4], in[5], states);
        default:             return ggml_gated_linear_attn(ctx, in[0], in[1], in[2], in[3], states, 0.5f);
    }
}

// all states, and the parents behind them
static void make_tree(ggml_context * ctx, ggml_tensor * op, ggml_tensor * states, ggml_tensor * parents) {
    int i = 0;
    while (op->src[i]->view_src != states) {
        i += 1;
    }
    op->src[i]     = ggml_reshape_4d(ctx, states, states->ne[0], 1, 1, states->ne[1]);
    op->src[i + 1] = parents;
}

int32_t treellama_wkv(const treellama_wkv_params * p, const float * inputs, const float * bonus, const float * states,
        const int32_t * parents, float * out, float * states_out) {
    return treellama_catch(TREELLAMA_EXCEPTION, [&] {
        ggml_backend_ptr backend { treellama_cpu_backend() };
        ggml_context_ptr ctx { ggml_init({ 32*ggml_tensor_overhead() + ggml_graph_overhead(), nullptr, true }) };

        const int64_t S = p->n_embd;
        const int64_t H = p->n_head;
        const int64_t T = p->n_tokens;

        std::vector<ggml_tensor *> in(p->kind == TREELLAMA_WKV7 ? 6 : 4);
        for (auto *& t : in) {
            t = ggml_new_tensor_3d(ctx.get(), GGML_TYPE_F32, S, H, T);
        }
        ggml_tensor * tb = ggml_new_tensor_2d(ctx.get(), GGML_TYPE_F32, S, H);
        ggml_tensor * ts = ggml_new_tensor_2d(ctx.get(), GGML_TYPE_F32, S*S*H, p->n_states);
        ggml_tensor * tp = parents ? ggml_new_tensor_1d(ctx.get(), GGML_TYPE_I32, T) : nullptr;

        ggml_tensor * res = build(*p, ctx.get(), in, tb,
                ggml_view_2d(ctx.get(), ts, S*S*H, tp ? 1 : p->n_states, ts->nb[1], 0));
        if (tp) {
            make_tree(ctx.get(), res, ts, tp);
        }

        ggml_cgraph * gf = ggml_new_graph(ctx.get());
        ggml_build_forward_expand(gf, res);

        ggml_backend_buffer_ptr buffer { ggml_backend_alloc_ctx_tensors(ctx.get(), backend.get()) };
        if (!buffer) {
            throw std::bad_alloc();
        }
        ggml_backend_buffer_clear(buffer.get(), 0xFF); // NaN

        for (size_t i = 0; i < in.size(); ++i) {
            ggml_backend_tensor_set(in[i], inputs + i*S*H*T, 0, ggml_nbytes(in[i]));
        }
        ggml_backend_tensor_set(tb, bonus, 0, ggml_nbytes(tb));
        ggml_backend_tensor_set(ts, states, 0, ggml_nbytes(ts));
        if (tp) {
            ggml_backend_tensor_set(tp, parents, 0, ggml_nbytes(tp));
        }

        treellama_compute(backend.get(), gf, p->n_threads, p->use_ref, "the op");
        ggml_backend_tensor_get(res, out, 0, S*H*T*sizeof(float));
        if (!tp) {
            ggml_backend_tensor_get(res, states_out, S*H*T*sizeof(float), ggml_nbytes(ts));
        }

        return 0;
    });
}
