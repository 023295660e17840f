// what a memory can share of a sequence

#include "treellama-impl.h"

#include "llama-context.h"
#include "llama-kv-cache-trees.h"
#include "llama-kv-cache.h"
#include "llama-memory-hybrid-idx.h"
#include "llama-memory-recurrent.h"
#include "llama-model.h"
#include "llama-state-trees.h"

static const llama_kv_cache * find_cache(const llama_context * ctx, bool swa) {
    return llama_find_kv_cache(llama_find_attention(ctx->get_memory()), swa);
}

bool treellama_window_is_small(const llama_context * ctx) {
    const auto * window = find_cache(ctx, true);
    return window && window->get_size() < find_cache(ctx, false)->get_size();
}

int32_t treellama_prefixes(const llama_context * ctx) {
    // what an indexer among recurrent layers finds depends on the other sequences in the cache
    if (dynamic_cast<const llama_memory_hybrid_idx *>(ctx->get_memory())) {
        return TREELLAMA_PREFIXES_NONE;
    }
    if (llama_find_recurrent(ctx->get_memory()) || treellama_window_is_small(ctx)) {
        return TREELLAMA_PREFIXES_STATE;
    }
    return find_cache(ctx, false) ? TREELLAMA_PREFIXES_CELLS : TREELLAMA_PREFIXES_NONE;
}

bool treellama_prefix_is_held(const llama_context * ctx, llama_seq_id seq_id, llama_pos n) {
    const auto * states = llama_find_recurrent(ctx->get_memory());
    const auto * cache  = find_cache(ctx, false);
    const auto * window = find_cache(ctx, true);

    if (states && states->seq_pos_max(seq_id) != n - 1) {
        return false;
    }
    if (cache && (cache->seq_pos_min(seq_id) != 0 || cache->seq_pos_max(seq_id) < n - 1)) {
        return false;
    }
    if (window) {
        const auto & hparams = ctx->get_model().hparams;
        const llama_pos first = window->seq_pos_min(seq_id);

        if (first != 0 && (first < 0 || !hparams.is_masked_swa(hparams.n_swa, hparams.swa_type, first - 1, n))) {
            return false;
        }
        return window->seq_pos_max(seq_id) >= n - 1;
    }
    return states || cache;
}
