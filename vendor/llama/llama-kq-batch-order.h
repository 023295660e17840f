#pragma once

#include "llama-graph.h"

// give the attention op cur of a graph without a memory the order of the batch's tokens, see
// ggml_flash_attn_ext_set_order(), where the CPU alone computes
void llm_graph_set_kq_batch_order(const llm_graph_context & graph, ggml_tensor * cur);

// the order of the tokens of a pass that attend to each other: cell i is token i. all layers share it
class llm_graph_input_kq_batch_order : public llm_graph_input_i {
public:
    llm_graph_input_kq_batch_order(const llm_graph_context & graph);

    void set_input(const llama_ubatch * ubatch) override;

    ggml_tensor * order = nullptr; // I32 [see ggml_flash_attn_ext_set_order()]
};
