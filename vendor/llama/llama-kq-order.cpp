#include "llama-kq-order.h"

#include "llama-kq-batch-order.h"
#include "llama-kq-plan.h"
#include "llama-kv-cache.h"
#include "llama-kv-cache-dsa-iswa.h"
#include "llama-kv-cache-dsa.h"
#include "llama-kv-cache-iswa.h"
#include "llama-kv-cache-msa.h"
#include "llama-memory-hybrid-iswa.h"
#include "llama-memory-hybrid.h"
#include "llama-top-cells.h"

#include "ordered/order.h"

#include <algorithm>
#include <array>
#include <cstdlib>
#include <map>
#include <numeric>
#include <unordered_map>
#include <vector>

// the groups of tokens that attend together: sequences that share a token, directly or through others, share a list
struct kq_order_groups {
    uint32_t n_groups = 0;

    std::vector<int32_t>                   of_token; // [n_tokens]
    std::vector<llama_kv_cells::seq_set_t> seqs;     // [n_groups]

    kq_order_groups(const llama_ubatch & ubatch, uint32_t i0, uint32_t n_tokens) : of_token(n_tokens) {
        std::array<llama_seq_id, LLAMA_MAX_SEQ> first;
        std::iota(first.begin(), first.end(), 0);

        const auto find = [&](llama_seq_id s) {
            while (first[s] != s) {
                s = first[s] = first[first[s]];
            }
            return s;
        };

        for (uint32_t i = 0; i < n_tokens; ++i) {
            for (int32_t s = 1; s < ubatch.n_seq_id[i0 + i]; ++s) {
                first[find(ubatch.seq_id[i0 + i][s])] = find(ubatch.seq_id[i0 + i][0]);
            }
        }

        std::array<int32_t, LLAMA_MAX_SEQ> group;
        group.fill(-1);

        for (uint32_t i = 0; i < n_tokens; ++i) {
            int32_t & g = group[find(ubatch.seq_id[i0 + i][0])];
            if (g < 0) {
                g = n_groups++;
                seqs.emplace_back();
            }

            of_token[i] = g;
            for (int32_t s = 0; s < ubatch.n_seq_id[i0 + i]; ++s) {
                seqs[g].set(ubatch.seq_id[i0 + i][s]);
            }
        }
    }
};

// the cells among the first n_kv that any group sees, by the groups that do
static std::vector<llama_kq_cells> lists_of_cells(const llama_kv_cells & cells, const kq_order_groups & groups, uint32_t n_kv) {
    using seq_set = llama_kv_cells::seq_set_t;

    std::vector<llama_kq_cells> res;

    std::map<std::vector<int32_t>, size_t> list_of_groups;
    std::unordered_map<seq_set, size_t>    list_of_seqs;

    const auto list_of = [&](const seq_set & seqs) {
        const auto known = list_of_seqs.find(seqs);
        if (known != list_of_seqs.end()) {
            return known->second;
        }

        std::vector<int32_t> those;
        for (uint32_t g = 0; g < groups.n_groups; ++g) {
            if ((groups.seqs[g] & seqs).any()) {
                those.push_back(g);
            }
        }

        const auto found = list_of_groups.emplace(those, res.size());
        if (found.second) {
            res.emplace_back();
            res.back().groups = those;
        }
        return list_of_seqs[seqs] = found.first->second;
    };

    seq_set all;
    for (const auto & seqs : groups.seqs) {
        all |= seqs;
    }

    seq_set last;
    size_t  list = 0;

    for (uint32_t j = 0; j < n_kv; ++j) {
        const seq_set seqs = cells.seq_get_all(j) & all;

        // a state that was damaged can hold negative positions, which are in no text
        if (seqs.none() || cells.is_empty(j) || cells.pos_get(j) < 0) {
            continue;
        }
        if (seqs != last) {
            last = seqs;
            list = list_of(seqs);
        }
        res[list].cells.push_back(j);
        res[list].pos  .push_back(cells.pos_get(j));
    }
    return res;
}

llm_graph_input_kq_order::llm_graph_input_kq_order(
        const llm_graph_context & graph, const llama_kv_cache_context * mctx, uint32_t i_cache, int64_t n_stream) :
    i_cache(i_cache), mctx(mctx) {
    order = ggml_new_tensor_2d(graph.ctx0, GGML_TYPE_I32, size(graph.ubatch), n_stream);

    ggml_set_input(order);
    ggml_set_name(order, "attn_inp_kq_order");
}

// the caches that an attention op can look at: one, or two if the model has sliding windows
static std::vector<const llama_kv_cache_context *> find_caches(const llama_memory_context_i * mctx) {
    if (const auto * hybrid = dynamic_cast<const llama_memory_hybrid_context *>(mctx)) {
        return { hybrid->get_attn() };
    }
    if (const auto * hybrid = dynamic_cast<const llama_memory_hybrid_iswa_context *>(mctx)) {
        return find_caches(hybrid->get_attn());
    }
    if (const auto * iswa = dynamic_cast<const llama_kv_cache_iswa_context *>(mctx)) {
        return { iswa->get_base(), iswa->get_swa() };
    }
    if (const auto * dsa = dynamic_cast<const llama_kv_cache_dsa_context *>(mctx)) {
        return { dsa->get_mla() };
    }
    if (const auto * dsa = dynamic_cast<const llama_kv_cache_dsa_iswa_context *>(mctx)) {
        return { dsa->get_dsa()->get_mla(), dsa->get_swa() };
    }
    if (const auto * msa = dynamic_cast<const llama_kv_cache_msa_context *>(mctx)) {
        return { msa->get_base() };
    }
    if (const auto * kv = dynamic_cast<const llama_kv_cache_context *>(mctx)) {
        return { kv };
    }
    return {};
}

const llama_kv_cache_context * llm_graph_input_kq_order::find(
        const llama_memory_context_i * mctx, const ggml_tensor * k, const ggml_tensor * v, uint32_t & i_cache) {
    const auto caches = find_caches(mctx);

    for (i_cache = 0; i_cache < caches.size(); ++i_cache) {
        const auto & kv = cache_of(*caches[i_cache]);
        if (llama_kv_cache_trees::is_host(kv) && llama_kv_cache_trees::holds(kv, k, v)) {
            return caches[i_cache];
        }
    }
    return nullptr;
}

bool llm_graph_input_kq_order::is_wanted() {
    const char * LLAMA_KQ_ORDER_DISABLE = getenv("LLAMA_KQ_ORDER_DISABLE");

    return !LLAMA_KQ_ORDER_DISABLE || atoi(LLAMA_KQ_ORDER_DISABLE) == 0;
}

const llama_kv_cache_context * llm_graph_input_kq_order::whole_text(const llama_memory_context_i * mctx) {
    const auto caches = find_caches(mctx);

    return caches.empty() ? nullptr : caches[0];
}

const llama_kv_cache & llm_graph_input_kq_order::cache_of(const llama_kv_cache_context & mctx) {
    return *mctx.kv;
}

uint32_t llm_graph_input_kq_order::n_streams(const llama_ubatch & ubatch) const {
    return mctx->kv->get_n_stream() == 1 ? 1 : ubatch.n_seqs_unq;
}

uint32_t llm_graph_input_kq_order::size(const llama_ubatch & ubatch) const {
    const uint32_t n_strm   = n_streams(ubatch);
    const uint32_t n_tps    = ubatch.n_tokens/n_strm;
    const uint32_t n_groups = n_strm > 1 ? 1 : kq_order_groups(ubatch, 0, n_tps).n_groups;

    return llama_kq_plan::size_max(n_groups, n_tps, mctx->get_n_kv());
}

void llm_graph_input_kq_order::write_row(int32_t * row, const llama_ubatch & ubatch, uint32_t i0, uint32_t n_tokens) const {
    const kq_order_groups groups(ubatch, i0, n_tokens);

    const auto & cells = mctx->kv->get_cells(ubatch.seq_id[i0][0]);

    llama_kq_plan plan(groups.n_groups, groups.of_token, lists_of_cells(cells, groups, mctx->get_n_kv()));
    plan.write(row, order->ne[0]);
}

void llm_graph_input_kq_order::set_input(const llama_ubatch * ubatch) {
    // not allocated where no op looks at it
    if (!order->buffer) {
        return;
    }

    GGML_ASSERT(ggml_backend_buffer_is_host(order->buffer));

    const uint32_t n_tps = ubatch->n_tokens/order->ne[1];

    for (uint32_t s = 0; s < order->ne[1]; ++s) {
        write_row((int32_t *) order->data + s*order->ne[0], *ubatch, s*n_tps, n_tps);
    }
}

bool llm_graph_input_kq_order::can_reuse(const llm_graph_params & params) {
    mctx = find_caches(params.mctx).at(i_cache);

    return order->ne[0] == size(params.ubatch);
}

// what a tensor is a view or a copy of
static const ggml_tensor * storage(const ggml_tensor * t) {
    while (t->view_src || t->op == GGML_OP_CPY) {
        t = t->view_src ? t->view_src : t->src[0];
    }
    return t;
}

void llm_graph_set_kq_order(const llm_graph_context & graph, ggml_tensor * cur) {
    if (!llm_graph_input_kq_order::is_wanted()) {
        return;
    }
    if (!graph.mctx) {
        llm_graph_set_kq_batch_order(graph, cur);
        return;
    }

    uint32_t i_cache;
    const auto * mctx = llm_graph_input_kq_order::find(graph.mctx, storage(cur->src[1]), storage(cur->src[2]), i_cache);
    if (!mctx) {
        return;
    }

    llm_graph_order_top_cells(graph, mctx, cur->src[3]);

    for (const auto & input : graph.res->inputs) {
        const auto * known = dynamic_cast<const llm_graph_input_kq_order *>(input.get());
        if (known && known->i_cache == i_cache) {
            ggml_flash_attn_ext_set_order(cur, known->order);
            return;
        }
    }

    auto input = std::make_unique<llm_graph_input_kq_order>(graph, mctx, i_cache, cur->src[0]->ne[3]);

    ggml_flash_attn_ext_set_order(cur, input->order);
    graph.res->add_input(std::move(input));
}
