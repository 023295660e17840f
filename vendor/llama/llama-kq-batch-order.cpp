#include "llama-kq-batch-order.h"

#include "llama-kq-plan.h"

#include "ordered/order.h"

#include <map>
#include <utility>
#include <vector>

// the tokens of each sequence, in the order in which sequences appear
static std::vector<llama_kq_cells> tokens_of_sequences(const llama_ubatch & ubatch, std::vector<int32_t> & group_of_token) {
    std::vector<llama_kq_cells>     res;
    std::map<llama_seq_id, int32_t> groups;

    for (uint32_t i = 0; i < ubatch.n_tokens; ++i) {
        const auto found = groups.emplace(ubatch.seq_id[i][0], (int32_t) res.size());
        if (found.second) {
            res.emplace_back();
            res.back().groups.push_back(found.first->second);
        }

        auto & list = res[found.first->second];
        list.cells.push_back(i);
        list.pos  .push_back(ubatch.pos[i]);

        group_of_token.push_back(found.first->second);
    }
    return res;
}

// a graph that only reserves memory may have no sequences in its tokens
static uint32_t n_sequences(const llama_ubatch & ubatch) {
    return ubatch.n_seqs_unq > 0 ? ubatch.n_seqs_unq : 1;
}

llm_graph_input_kq_batch_order::llm_graph_input_kq_batch_order(const llm_graph_context & graph) {
    const auto n_tokens = graph.ubatch.n_tokens;

    order = ggml_new_tensor_1d(graph.ctx0, GGML_TYPE_I32, llama_kq_plan::size_max(n_sequences(graph.ubatch), n_tokens, n_tokens));

    ggml_set_input(order);
    ggml_set_name(order, "attn_inp_kq_order");
}

void llm_graph_input_kq_batch_order::set_input(const llama_ubatch * ubatch) {
    // not allocated where no op looks at it
    if (!order->buffer) {
        return;
    }

    GGML_ASSERT(ggml_backend_buffer_is_host(order->buffer));

    std::vector<int32_t> group_of_token;

    auto lists = tokens_of_sequences(*ubatch, group_of_token);

    const uint32_t n_groups = lists.size();

    llama_kq_plan plan(n_groups, std::move(group_of_token), std::move(lists));
    plan.write((int32_t *) order->data, order->ne[0]);
}

void llm_graph_set_kq_batch_order(const llm_graph_context & graph, ggml_tensor * cur) {
    if (ggml_backend_sched_get_n_backends(graph.sched) > 1) {
        return;
    }

    for (const auto & input : graph.res->inputs) {
        if (const auto * known = dynamic_cast<const llm_graph_input_kq_batch_order *>(input.get())) {
            ggml_flash_attn_ext_set_order(cur, known->order);
            return;
        }
    }

    auto input = std::make_unique<llm_graph_input_kq_batch_order>(graph);

    ggml_flash_attn_ext_set_order(cur, input->order);
    graph.res->add_input(std::move(input));
}
