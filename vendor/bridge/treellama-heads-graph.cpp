// heads as graphs, and what it takes to compute them

#include "treellama-heads-impl.h"

#include "ggml-cpu.h"

#include <algorithm>
#include <cmath>
#include <new>

using namespace treellama;

static ggml_tensor * beside(ggml_context * ctx, ggml_tensor * left, ggml_tensor * right) {
    return left ? ggml_concat(ctx, left, right, 1) : right;
}

ggml_tensor * treellama_heads::build_logits(ggml_context * c, const head_graph & graph, int32_t first, int32_t n_heads) const {
    ggml_tensor * input = graph.seen ? ggml_concat(c, graph.hidden, graph.seen, 0) : graph.hidden;

    ggml_tensor * states = nullptr;
    ggml_tensor * res    = nullptr;
    for (int32_t i = first; i < first + n_heads; ++i) {
        ggml_tensor * state = graph.hidden;
        for (size_t l = 0; l < heads[i].layers.size(); ++l) {
            const head_layer & one = heads[i].layers[l];
            ggml_tensor * inner = ggml_mul_mat(c, one.weight, l == 0 ? input : state);
            state = ggml_add(c, ggml_silu(c, ggml_add(c, inner, one.bias)), state);
        }
        if (facts.has_output) {
            res = beside(c, res, ggml_mul_mat(c, heads[i].output, state));
        } else {
            states = beside(c, states, state);
        }
    }
    // one product for all heads: the output matrix is read once
    if (!facts.has_output) {
        res = ggml_mul_mat(c, heads[first].output, states);
    }
    return facts.logit_scale != 1.0f ? ggml_scale(c, res, facts.logit_scale) : res;
}

head_graph & treellama_heads::get_graph(int32_t first, int32_t n_heads, int32_t n_cols) {
    auto & res = graphs[std::make_tuple(first, n_heads, n_cols)];
    if (res) {
        return *res;
    }
    res = std::make_unique<head_graph>();

    const size_t n_nodes = 16 + n_heads*(4*facts.n_layers + 8);
    res->ctx.reset(ggml_init({ n_nodes*ggml_tensor_overhead() + ggml_graph_overhead_custom(n_nodes, false), nullptr, true }));
    ggml_context * c = res->ctx.get();

    const int32_t n_tokens = n_seen(first);
    res->hidden = ggml_new_tensor_2d(c, GGML_TYPE_F32, facts.n_embd, n_cols);
    ggml_set_input(res->hidden);
    if (n_tokens > 0) {
        res->seen = ggml_new_tensor_2d(c, GGML_TYPE_F32, (int64_t) n_tokens*facts.n_embd, n_cols);
        ggml_set_input(res->seen);
    }
    res->logits = build_logits(c, *res, first, n_heads);
    ggml_set_output(res->logits);

    res->gf = ggml_new_graph_custom(c, n_nodes, false);
    ggml_build_forward_expand(res->gf, res->logits);

    res->allocr = ggml_gallocr_new(ggml_backend_get_default_buffer_type(backend.get()));
    if (!ggml_gallocr_alloc_graph(res->allocr, res->gf)) {
        res.reset();
        throw std::bad_alloc();
    }

    return *res;
}

void treellama_heads::embed(const int32_t * ids, int32_t n, float * out) const {
    for (int32_t i = 0; i < n; ++i) {
        float * values = out + (int64_t) i*facts.n_embd;
        read_embedding(model.tok_embd, ids[i], values);

        double sum = 0.0;
        for (int32_t j = 0; j < facts.n_embd; ++j) {
            sum += (double) values[j]*values[j];
        }
        const float scale = (float) (1.0/std::max(std::sqrt(sum/facts.n_embd), 1e-6));
        for (int32_t j = 0; j < facts.n_embd; ++j) {
            values[j] *= scale;
        }
    }
}

const float * treellama_heads::run(
        int32_t n_threads, int32_t first, int32_t n_heads, int32_t n_cols, const float * hidden, const int32_t * seen_tokens) {
    head_graph & graph = get_graph(first, n_heads, n_cols);

    const size_t n_state = facts.n_embd*sizeof(float);
    for (int32_t i = 0; i < n_cols; ++i) {
        ggml_backend_tensor_set(graph.hidden, hidden, i*n_state, n_state);
    }
    if (graph.seen) {
        seen.resize(ggml_nelements(graph.seen));
        embed(seen_tokens, n_cols*n_seen(first), seen.data());
        ggml_backend_tensor_set(graph.seen, seen.data(), 0, ggml_nbytes(graph.seen));
    }

    {
        treellama_turn turn(n_threads);
        if (ggml_backend_is_cpu(backend.get())) {
            treellama_cpu_function<ggml_backend_set_n_threads_t>("ggml_backend_set_n_threads")(backend.get(), n_threads);
            treellama_cpu_function<decltype(ggml_backend_cpu_set_threadpool) *>("ggml_backend_cpu_set_threadpool")(backend.get(), turn.pool);
        }
        if (ggml_backend_graph_compute(backend.get(), graph.gf) != GGML_STATUS_SUCCESS) {
            fail("the heads could not be computed");
        }
    }

    logits.resize(ggml_nelements(graph.logits));
    ggml_backend_tensor_get(graph.logits, logits.data(), 0, ggml_nbytes(graph.logits));

    return logits.data();
}
