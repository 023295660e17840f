#include "llama-top-cells.h"

#include "llama-cell-pos.h"
#include "llama-kv-cache-dsa-iswa.h"
#include "llama-kv-cache-dsa.h"
#include "llama-memory-hybrid-idx.h"

#include <algorithm>
#include <cmath>
#include <numeric>
#include <vector>

// an indexer's scores are sums of rectified products, or those of blocks: many are equal
// dst: I32 [k, n_tokens, ...]; src: F32 scores [n_kv, n_tokens, ...], I32 positions [n_kv, n_stream]. of the dimensions left
//   out one is 1, the other n_stream
static void top_cells(ggml_tensor * dst, int ith, int nth, void * /*userdata*/) {
    const ggml_tensor * scores = dst->src[0];
    const ggml_tensor * pos    = dst->src[1];

    std::vector<int32_t> cells(scores->ne[0]);

    for (int64_t r = ith; r < ggml_nrows(dst); r += nth) {
        const int64_t i1 = r % dst->ne[1];
        const int64_t s  = r / dst->ne[1];
        const int64_t i2 = s % dst->ne[2];
        const int64_t i3 = s / dst->ne[2];

        const auto at_row = [&](const ggml_tensor * t) {
            return (char *) t->data + i1*t->nb[1] + i2*t->nb[2] + i3*t->nb[3];
        };

        const auto * score = (const float   *) at_row(scores);
        const auto * at    = (const int32_t *) ((const char *) pos->data + s*pos->nb[1]);

        const auto is_before = [&](int32_t a, int32_t b) {
            const float score_a = std::isnan(score[a]) ? -INFINITY : score[a];
            const float score_b = std::isnan(score[b]) ? -INFINITY : score[b];

            return score_a != score_b ? score_a > score_b : at[a] < at[b];
        };

        std::iota(cells.begin(), cells.end(), 0);
        std::nth_element(cells.begin(), cells.begin() + (dst->ne[0] - 1), cells.end(), is_before);
        std::copy_n(cells.begin(), dst->ne[0], (int32_t *) at_row(dst));
    }
}

// the tensor whose first source is the choice that a mask was made from; nullptr if there is none
static ggml_tensor * find_user_of_top_k(ggml_tensor * t) {
    while (t) {
        switch (t->op) {
            case GGML_OP_ADD:
            case GGML_OP_CONT:
            case GGML_OP_CPY:
            case GGML_OP_RESHAPE:
            case GGML_OP_VIEW:
                if (t->src[0]->op == GGML_OP_TOP_K) {
                    return t;
                }
                t = t->src[0];
                break;
            case GGML_OP_SET_ROWS:
                t = t->src[1];
                break;
            default:
                return nullptr;
        }
    }
    return nullptr;
}

// where an indexer chooses cells, and not pools of them
static bool chooses_cells(const llm_graph_context & graph) {
    return dynamic_cast<const llama_kv_cache_dsa_context      *>(graph.mctx) ||
           dynamic_cast<const llama_kv_cache_dsa_iswa_context *>(graph.mctx) ||
          (dynamic_cast<const llama_memory_hybrid_idx_context *>(graph.mctx) && graph.hparams.indexer_kpool == 0);
}

void llm_graph_order_top_cells(const llm_graph_context & graph, const llama_kv_cache_context * mctx, ggml_tensor * mask) {
    ggml_tensor * user = chooses_cells(graph) ? find_user_of_top_k(mask) : nullptr;
    if (!user || user->ne[0] == 0) {
        return;
    }

    const ggml_tensor * top_k = user->src[0];

    ggml_tensor * args[] = { top_k->src[0], llm_graph_input_cell_pos::build(graph, mctx, top_k->ne[2]*top_k->ne[3]) };

    user->src[0] = ggml_custom_4d(graph.ctx0, GGML_TYPE_I32, top_k->ne[0], top_k->ne[1], top_k->ne[2], top_k->ne[3],
            args, 2, top_cells, GGML_N_TASKS_MAX, nullptr);
}
