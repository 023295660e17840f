#pragma once

#include "llama-graph.h"

struct llama_layer;

// MiniMax's sparse attention, for any number of sequences and trees in one cache: every query scores blocks of positions by
//   the cells that it sees, and attends to those of the best blocks. where keys and values are in the CPU's memory
bool llm_graph_has_msa(const llm_graph_context & graph);

// cur: the normed input; q, k, v: with their positions, not yet stored
ggml_tensor * llm_graph_build_msa(
        const llm_graph_context & graph,
    llm_graph_input_attn_kv_msa * inp,
              const llama_layer & layer,
                    ggml_tensor * cur,
                    ggml_tensor * q,
                    ggml_tensor * k,
                    ggml_tensor * v,
                    ggml_tensor * inp_pos,
                            int   il);
