#pragma once

#include "llama-graph.h"

#include <cstdint>

class llama_kv_cache;
class llama_kv_cache_context;

// give the attention op cur the order of the cells, see ggml_flash_attn_ext_set_order(), if its K and V stand in the KV
// cache of the graph, and in memory that the CPU can look at; without a memory, that of the batch's tokens.
// LLAMA_KQ_ORDER_DISABLE=1 leaves it out
void llm_graph_set_kq_order(const llm_graph_context & graph, ggml_tensor * cur);

// the order of the cells of one cache. all layers that the cache holds share it
class llm_graph_input_kq_order : public llm_graph_input_i {
public:
    // n_stream: of K and V, more than the sequences in a graph that only reserves memory
    llm_graph_input_kq_order(const llm_graph_context & graph, const llama_kv_cache_context * mctx, uint32_t i_cache, int64_t n_stream);

    // the cache that holds both tensors; nullptr if there is none, or its cells need no order
    static const llama_kv_cache_context * find(const llama_memory_context_i * mctx, const ggml_tensor * k, const ggml_tensor * v, uint32_t & i_cache);

    // false if LLAMA_KQ_ORDER_DISABLE=1 asks for stock's attention
    static bool is_wanted();

    // the cache that has cells for the whole text; nullptr if there is none
    static const llama_kv_cache_context * whole_text(const llama_memory_context_i * mctx);

    static const llama_kv_cache & cache_of(const llama_kv_cache_context & mctx);

    void set_input(const llama_ubatch * ubatch) override;

    bool can_reuse(const llm_graph_params & params) override;

    const uint32_t i_cache;

    ggml_tensor * order = nullptr; // I32 [see ggml_flash_attn_ext_set_order(), n_stream]

private:
    uint32_t n_streams(const llama_ubatch & ubatch) const;
    uint32_t size     (const llama_ubatch & ubatch) const; // of a row

    void write_row(int32_t * row, const llama_ubatch & ubatch, uint32_t i0, uint32_t n_tokens) const;

    const llama_kv_cache_context * mctx;
};
