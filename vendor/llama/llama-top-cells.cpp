#include "llama-top-cells.h"

#include "llama-cell-pos.h"
#include "llama-kv-cache-dsa-iswa.h"
#include "llama-kv-cache-dsa.h"

#include <algorithm>
#include <cmath>
#include <numeric>
#include <vector>

// an indexer's scores are sums of rectified products: many are exactly zero
// dst: I32 [k, n_tokens, 1, n_stream]; src: F32 scores [n_kv, n_tokens, 1, n_stream], I32 positions [n_kv, n_stream]
static void top_cells(ggml_tensor * dst, int ith, int nth, void * /*userdata*/) {
    const ggml_tensor * scores = dst->src[0];
    const ggml_tensor * pos    = dst->src[1];

    std::vector<int32_t> cells(scores->ne[0]);

    for (int64_t r = ith; r < dst->ne[1]*dst->ne[3]; r += nth) {
        const int64_t i1 = r % dst->ne[1];
        const int64_t i3 = r / dst->ne[1];

        const float   * score = (const float   *) ((const char *) scores->data + i1*scores->nb[1] + i3*scores->nb[3]);
        const int32_t * at    = (const int32_t *) ((const char *) pos->data + i3*pos->nb[1]);

        const auto is_before = [&](int32_t a, int32_t b) {
            const float score_a = std::isnan(score[a]) ? -INFINITY : score[a];
            const float score_b = std::isnan(score[b]) ? -INFINITY : score[b];

            return score_a != score_b ? score_a > score_b : at[a] < at[b];
        };

        std::iota(cells.begin(), cells.end(), 0);
        std::nth_element(cells.begin(), cells.begin() + (dst->ne[0] - 1), cells.end(), is_before);
        std::copy_n(cells.begin(), dst->ne[0], (int32_t *) ((char *) dst->data + i1*dst->nb[1] + i3*dst->nb[3]));
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

void llm_graph_order_top_cells(const llm_graph_context & graph, const llama_kv_cache_context * mctx, ggml_tensor * mask) {
    if (!dynamic_cast<const llama_kv_cache_dsa_context      *>(graph.mctx) &&
        !dynamic_cast<const llama_kv_cache_dsa_iswa_context *>(graph.mctx)) {
        return;
    }

    ggml_tensor * user = find_user_of_top_k(mask);
    if (!user) {
        return;
    }

    const ggml_tensor * top_k = user->src[0];

    ggml_tensor * args[] = { top_k->src[0], llm_graph_input_cell_pos::build(graph, mctx, top_k->ne[3]) };

    user->src[0] = ggml_custom_4d(graph.ctx0, GGML_TYPE_I32, top_k->ne[0], top_k->ne[1], top_k->ne[2], top_k->ne[3],
            args, 2, top_cells, GGML_N_TASKS_MAX, nullptr);
}
