#pragma once

#include "llama-adapter.h"
#include "llama-graph.h"

#include "ggml-cpp.h"

#include <array>
#include <cstdint>
#include <map>
#include <memory>

struct llama_context;

// the schedulers and graphs of a context for small passes, by number of tokens
//
// trees vary in size from pass to pass, and plain steps come in between; building and allocating a graph for each of them
//   costs as much as a tenth of a small model's pass
class llama_kept_graphs {
public:
    // from here on the context uses the scheduler and the graphs that are kept for so many tokens
    void use(llama_context & ctx, uint32_t n_tokens);

    // from here on graphs keep the states behind the last n_rs_seq + 1 tokens: they are others than those that keep none
    static void keep_states(llama_context & ctx, uint32_t n_rs_seq);

    // the adapters of the passes to come: whoever exchanges them must not free a set that a graph may have
    static std::unique_ptr<llama_adapter_loras> & loras_of(llama_context & ctx);

    // make the schedulers and graphs of a context again where something asks for it, now
    static void reserve(llama_context & ctx);

    // back to the prompts' graph, which is as without kept graphs, and forget the others
    void drop(llama_context & ctx);

private:
    struct entry {
        ggml_backend_sched_ptr              sched;
        std::array<llm_graph_result_ptr, 2> gf_res_prev;
        llm_graph_result *                  gf_res_prev_active = nullptr;
    };

    void use_entry(llama_context & ctx, uint32_t key);

    // the one in use is in the context's own members, and its place here is empty
    std::map<uint32_t, entry> entries;

    uint32_t cur = 0; // 0 is the prompts'
};
