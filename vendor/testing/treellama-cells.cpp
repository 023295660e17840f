// the cells of a KV cache

#include "treellama-cells.h"

#include "treellama-impl.h"

#include "llama-context.h"
#include "llama-kv-cache.h"

#include <cstring>

int32_t treellama_cells(llama_context * ctx, bool swa, llama_seq_id seq_id, llama_pos * pos, int32_t * nodes, uint32_t * seqs) {
    const auto * cache = treellama_find_cache(ctx, swa);
    if (!cache) {
        return -1;
    }

    const auto & cells = cache->get_cells(seq_id);

    for (uint32_t i = 0; pos && i < cells.size(); ++i) {
        pos[i]   = cells.is_empty(i) ? -1 : cells.pos_get(i);
        nodes[i] = -1;
    }

    const auto stream = cache->get_stream(seq_id);
    for (llama_seq_id s = 0; pos && s < (llama_seq_id) ctx->n_seq_max(); ++s) {
        const auto * tree = cache->get_stream(s) == stream ? cache->trees.trees->get(s) : nullptr;
        for (uint32_t n = 0; tree && n < tree->n_nodes(); ++n) {
            nodes[cache->trees.get_cells(s)[n]] = (int32_t) n;
        }
    }

    constexpr uint32_t n_words = TREELLAMA_N_SEQ_MAX/32;
    for (uint32_t i = 0; seqs && i < cells.size(); ++i) {
        memset(seqs + i*n_words, 0, n_words*sizeof(uint32_t));
        for (llama_seq_id s = 0; s < TREELLAMA_N_SEQ_MAX; ++s) {
            if (cells.seq_has(i, s)) {
                seqs[i*n_words + s/32] |= 1u << (s%32);
            }
        }
    }

    return (int32_t) cells.size();
}

int32_t treellama_tree_commit_in_place(llama_context * ctx, llama_seq_id seq_id, const int32_t * path, int32_t n_path) {
    return treellama_commit(ctx, seq_id, path, n_path, true);
}
