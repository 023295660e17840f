#include "llama-msa.h"

#include "llama-cell-pos.h"
#include "llama-impl.h"
#include "llama-kq-order.h"
#include "llama-kv-cache-msa.h"
#include "llama-model.h"

#include <algorithm>
#include <cmath>
#include <vector>

// of one query and head: the best score of each block of positions, and which blocks are chosen
class msa_blocks {
public:
    msa_blocks(const llama_hparams & hparams, llama_pos own) :
        size(hparams.indexer_block_size), first_local(own/size - hparams.indexer_local_blocks + 1),
        best(own/size + 1, -INFINITY), is_seen(best.size()), is_chosen(best.size()) {}

    // -1 where no text stands, or one that comes later
    int32_t block_of(llama_pos pos) const {
        return pos < 0 || (size_t) (pos/size) >= best.size() ? -1 : pos/size;
    }

    void add(int32_t block, float score) {
        is_seen[block] = true;
        best[block]    = score > best[block] ? score : best[block];
    }

    // those next to the query first, then by score. of equal ones the first in the text
    void choose(size_t n) {
        std::vector<int32_t> blocks;
        for (size_t b = 0; b < best.size(); ++b) {
            if (is_seen[b]) {
                blocks.push_back(b);
            }
        }

        n = std::min(n, blocks.size());
        std::partial_sort(blocks.begin(), blocks.begin() + n, blocks.end(), [&](int32_t a, int32_t b) {
            if ((a >= first_local) != (b >= first_local)) {
                return a >= first_local;
            }
            return best[a] != best[b] ? best[a] > best[b] : a < b;
        });

        for (size_t i = 0; i < n; ++i) {
            is_chosen[blocks[i]] = true;
        }
    }

    bool has(int32_t block) const {
        return block >= 0 && is_chosen[block];
    }

private:
    const int64_t size;
    const int64_t first_local;

    std::vector<float> best;
    std::vector<bool>  is_seen;
    std::vector<bool>  is_chosen;
};

template <typename T>
static T * row_of(const ggml_tensor * t, int64_t i1, int64_t i2 = 0, int64_t i3 = 0) {
    return (T *) ((char *) t->data + i1*t->nb[1] + i2*t->nb[2] + i3*t->nb[3]);
}

// dst: F16 mask [n_kv, n_tokens, n_stream, n_head]
// src: F32 scores [n_kv, n_tokens, n_head, n_stream], F16 mask [n_kv, n_tokens, 1, n_stream],
//   I32 positions of cells [n_kv, n_stream] and tokens [n_tokens*n_stream]
static void mask_of_blocks(ggml_tensor * dst, int ith, int nth, void * userdata) {
    const auto & hparams = *(const llama_hparams *) userdata;

    const auto masked = ggml_fp32_to_fp16(-INFINITY);

    const int64_t n_tokens = dst->ne[1];

    for (int64_t r = ith; r < ggml_nrows(dst); r += nth) {
        const int64_t t = r % n_tokens;
        const int64_t s = r / n_tokens % dst->ne[2];
        const int64_t h = r / n_tokens / dst->ne[2];

        const auto * score = row_of<const float>      (dst->src[0], t, h, s);
        const auto * mask  = row_of<const ggml_fp16_t>(dst->src[1], t, 0, s);
        const auto * pos   = row_of<const int32_t>    (dst->src[2], s);
        auto       * out   = row_of<ggml_fp16_t>      (dst, t, s, h);

        msa_blocks blocks(hparams, ((const int32_t *) dst->src[3]->data)[s*n_tokens + t]);

        for (int64_t j = 0; j < dst->ne[0]; ++j) {
            const int32_t b = mask[j] == masked ? -1 : blocks.block_of(pos[j]);
            if (b >= 0) {
                blocks.add(b, score[j]);
            }
        }
        blocks.choose(hparams.indexer_top_k);

        for (int64_t j = 0; j < dst->ne[0]; ++j) {
            out[j] = mask[j] != masked && blocks.has(blocks.block_of(pos[j])) ? mask[j] : masked;
        }
    }
}

bool llm_graph_has_msa(const llm_graph_context & graph) {
    const auto * mctx = static_cast<const llama_kv_cache_msa_context *>(graph.mctx);

    return graph.cparams.flash_attn && llm_graph_input_kq_order::is_wanted() &&
        llama_kv_cache_trees::is_host(llm_graph_input_kq_order::cache_of(*mctx->get_base())) &&
        llama_kv_cache_trees::is_host(llm_graph_input_kq_order::cache_of(*mctx->get_idx()));
}

// heads of the indexer, with their positions
static ggml_tensor * index_heads(
        const llm_graph_context & graph, ggml_tensor * w, ggml_tensor * norm, ggml_tensor * cur, ggml_tensor * inp_pos, int il) {
    const int64_t n_embd = graph.hparams.indexer_head_size;

    ggml_tensor * res = graph.build_lora_mm(w, cur);
    res = ggml_reshape_3d(graph.ctx0, res, n_embd, res->ne[0]/n_embd, res->ne[1]);
    res = graph.build_norm(res, norm, nullptr, LLM_NORM_RMS, il);

    return ggml_rope_ext(graph.ctx0, res, inp_pos, nullptr, graph.n_rot, graph.rope_type, graph.n_ctx_orig, graph.freq_base,
            graph.freq_scale, graph.ext_factor, graph.attn_factor, graph.beta_fast, graph.beta_slow);
}

// F16 [n_kv, n_tokens, n_stream, n_head]: the cells that each head sees
static ggml_tensor * build_mask(
        const llm_graph_context & graph, const llm_graph_input_attn_kv_msa * inp, ggml_tensor * q, ggml_tensor * k,
        ggml_tensor * inp_pos) {
    ggml_context * ctx = graph.ctx0;

    ggml_tensor * kq_mask = inp->get_kq_mask();

    const int64_t n_strm = k->ne[3];
    const int64_t n_tps  = q->ne[2]/n_strm;

    q = ggml_view_4d(ctx, q, q->ne[0], q->ne[1], n_tps, n_strm, q->nb[1], q->nb[2], q->nb[2]*n_tps, 0);

    ggml_tensor * scores = ggml_mul_mat(ctx, ggml_permute(ctx, k, 0, 2, 1, 3), ggml_permute(ctx, q, 0, 2, 1, 3));
    ggml_prec_set_acc(scores, GGML_PREC_F32);

    ggml_tensor * args[] = { scores, kq_mask, llm_graph_input_cell_pos::build(graph, inp->mctx, n_strm), inp_pos };

    return ggml_custom_4d(ctx, GGML_TYPE_F16, scores->ne[0], n_tps, n_strm, scores->ne[2],
            args, 4, mask_of_blocks, GGML_N_TASKS_MAX, const_cast<llama_hparams *>(&graph.hparams));
}

// the heads of Q that share a head of K and V see the same cells
static ggml_tensor * build_attention(const llm_graph_context & graph, ggml_tensor * q, ggml_tensor * k, ggml_tensor * v, ggml_tensor * mask, int il) {
    ggml_context * ctx = graph.ctx0;

    const int64_t n_per_kv = q->ne[1]/k->ne[1];

    const auto head = [&](ggml_tensor * t, int64_t h) {
        return ggml_view_4d(ctx, t, t->ne[0], 1, t->ne[2], t->ne[3], t->nb[1], t->nb[2], t->nb[3], h*t->nb[1]);
    };

    ggml_tensor * res = nullptr;
    for (int64_t h = 0; h < k->ne[1]; ++h) {
        ggml_tensor * q_h = ggml_view_3d(ctx, q, q->ne[0], n_per_kv, q->ne[2], q->nb[1], q->nb[2], h*n_per_kv*q->nb[1]);
        ggml_tensor * m_h = ggml_view_4d(ctx, mask, mask->ne[0], mask->ne[1], 1, mask->ne[2],
                mask->nb[1], mask->nb[2], mask->nb[2], h*mask->nb[3]);

        ggml_tensor * cur = graph.build_attn_mha(q_h, head(k, h), head(v, h), nullptr, m_h, nullptr, nullptr, 0,
                1.0f/sqrtf(float(q->ne[0])), il);

        res = res ? ggml_concat(ctx, res, cur, 0) : cur;
    }
    return res;
}

ggml_tensor * llm_graph_build_msa(
        const llm_graph_context & graph,
    llm_graph_input_attn_kv_msa * inp,
              const llama_layer & layer,
                    ggml_tensor * cur,
                    ggml_tensor * q,
                    ggml_tensor * k,
                    ggml_tensor * v,
                    ggml_tensor * inp_pos,
                            int   il) {
    ggml_context * ctx = graph.ctx0;

    const auto * mctx_idx = inp->mctx_msa->get_idx();

    GGML_ASSERT(k->ne[1] == graph.hparams.indexer_n_head && "a head of the indexer for each head of K and V");

    ggml_tensor * iq = index_heads(graph, layer.index_q_proj, layer.index_q_norm, cur, inp_pos, il);
    ggml_tensor * ik = index_heads(graph, layer.index_k_proj, layer.index_k_norm, cur, inp_pos, il);

    if (inp->self_k_rot) {
        q = llama_mul_mat_hadamard(ctx, q, inp->self_k_rot);
        k = llama_mul_mat_hadamard(ctx, k, inp->self_k_rot);
    }
    if (inp->self_v_rot) {
        v = llama_mul_mat_hadamard(ctx, v, inp->self_v_rot);
    }

    for (ggml_tensor * t : {
            q, mctx_idx->cpy_k(ctx, ik, inp->get_k_idxs_idx(), il),
            inp->mctx->cpy_k(ctx, k, inp->get_k_idxs(), il), inp->mctx->cpy_v(ctx, v, inp->get_v_idxs(), il) }) {
        ggml_build_forward_expand(graph.gf, t);
    }

    ggml_tensor * mask = build_mask(graph, inp, iq, mctx_idx->get_k(ctx, il), inp_pos);

    cur = build_attention(graph, q, inp->mctx->get_k(ctx, il), inp->mctx->get_v(ctx, il), mask, il);

    if (inp->self_v_rot) {
        cur = llama_mul_mat_hadamard(ctx, cur, inp->self_v_rot);
    }
    return graph.build_lora_mm(layer.wo, cur, layer.wo_s);
}
