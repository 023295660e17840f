#include "llama-cell-pos.h"

#include "llama-kq-order.h"
#include "llama-kv-cache.h"

ggml_tensor * llm_graph_input_cell_pos::build(
        const llm_graph_context & graph, const llama_kv_cache_context * mctx, int64_t n_stream) {
    for (const auto & input : graph.res->inputs) {
        if (const auto * known = dynamic_cast<const llm_graph_input_cell_pos *>(input.get())) {
            return known->pos;
        }
    }

    auto input = std::make_unique<llm_graph_input_cell_pos>(graph, mctx, n_stream);

    ggml_tensor * res = input->pos;
    graph.res->add_input(std::move(input));
    return res;
}

llm_graph_input_cell_pos::llm_graph_input_cell_pos(
        const llm_graph_context & graph, const llama_kv_cache_context * mctx, int64_t n_stream) : mctx(mctx) {
    pos = ggml_new_tensor_2d(graph.ctx0, GGML_TYPE_I32, mctx->get_n_kv(), n_stream);

    ggml_set_input(pos);
    ggml_set_name(pos, "attn_inp_cell_pos");
}

void llm_graph_input_cell_pos::set_input(const llama_ubatch * ubatch) {
    if (!pos->buffer) {
        return;
    }

    const uint32_t n_tps = ubatch->n_tokens/pos->ne[1];

    for (uint32_t s = 0; s < pos->ne[1]; ++s) {
        const auto & cells = llm_graph_input_kq_order::cache_of(*mctx).get_cells(ubatch->seq_id[s*n_tps][0]);

        int32_t * row = (int32_t *) pos->data + s*pos->ne[0];
        for (uint32_t j = 0; j < pos->ne[0]; ++j) {
            row[j] = cells.is_empty(j) ? -1 : cells.pos_get(j);
        }
    }
}

bool llm_graph_input_cell_pos::can_reuse(const llm_graph_params & params) {
    mctx = llm_graph_input_kq_order::whole_text(params.mctx);

    const bool is_unified = llm_graph_input_kq_order::cache_of(*mctx).get_n_stream() == 1;

    return pos->ne[0] == mctx->get_n_kv() && pos->ne[1] == (is_unified ? 1 : params.ubatch.n_seqs_unq);
}
