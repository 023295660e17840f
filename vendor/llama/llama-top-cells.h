#pragma once

#include "llama-graph.h"

class llama_kv_cache_context;

// where a mask shows the cells with the best scores of an indexer: let those with equal scores be chosen by their positions,
//   so that the choice does not depend on where cells stand. all other masks are left as they are
void llm_graph_order_top_cells(const llm_graph_context & graph, const llama_kv_cache_context * mctx, ggml_tensor * mask);
