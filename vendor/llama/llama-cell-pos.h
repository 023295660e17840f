#pragma once

#include "llama-graph.h"

class llama_kv_cache_context;

// the positions of the cells that a graph looks at. all its layers share them
class llm_graph_input_cell_pos : public llm_graph_input_i {
public:
    // of the cache that has cells for the whole text, which mctx belongs to
    static ggml_tensor * build(const llm_graph_context & graph, const llama_kv_cache_context * mctx, int64_t n_stream);

    llm_graph_input_cell_pos(const llm_graph_context & graph, const llama_kv_cache_context * mctx, int64_t n_stream);

    void set_input(const llama_ubatch * ubatch) override;

    bool can_reuse(const llm_graph_params & params) override;

private:
    ggml_tensor * pos; // I32 [n_kv, n_stream], -1 for empty cells

    const llama_kv_cache_context * mctx;
};
