// the KV cache of a context

#include "treellama-impl.h"

#include "llama-context.h"
#include "llama-kv-cache-trees.h"
#include "llama-kv-cache.h"
#include "llama-memory-recurrent.h"
#include "llama-model.h"
#include "llama-state-trees.h"

#include <algorithm>
#include <set>

// the KV cache whose cells a text needs: a hybrid's states need none
static const llama_kv_cache * find_cells(const llama_context * ctx) {
    return llama_find_kv_cache(llama_find_attention(ctx->get_memory()), false);
}

// the sequences whose recurrent state is that of a sequence, itself among them; empty without such a state
static std::set<llama_seq_id> sharers_of_state(const llama_context * ctx, llama_seq_id seq_id) {
    const auto * recr = llama_find_recurrent(ctx->get_memory());
    const int32_t tail = recr ? recr->cells[seq_id].tail : -1;

    return tail < 0 ? std::set<llama_seq_id>() : recr->cells[tail].seq_id;
}

int32_t treellama_memory_clear(llama_context * ctx, bool data) {
    return treellama_guard(TREELLAMA_EXCEPTION, [&] {
        llama_memory_clear(llama_get_memory(ctx), data);
        return 0;
    });
}

int32_t treellama_memory_seq_rm(llama_context * ctx, llama_seq_id seq_id, llama_pos p0, llama_pos p1) {
    return treellama_guard(TREELLAMA_EXCEPTION, [&] {
        if (!llama_memory_seq_rm(llama_get_memory(ctx), seq_id, p0, p1)) {
            return 1;
        }

        // a text without its window cannot go on: both caches must say so
        const auto * window = treellama_find_cache(ctx, true);
        if (seq_id >= 0 && window && window->seq_pos_max(seq_id) < 0) {
            treellama_find_cache(ctx, false)->seq_rm(seq_id, -1, -1);
        }
        return 0;
    });
}

int32_t treellama_memory_seq_cp(llama_context * ctx, llama_seq_id src, llama_seq_id dst, llama_pos p0, llama_pos p1) {
    return treellama_guard(TREELLAMA_EXCEPTION, [&] {
        llama_memory_seq_cp(llama_get_memory(ctx), src, dst, p0, p1);
        return 0;
    });
}

int32_t treellama_memory_seq_keep(llama_context * ctx, llama_seq_id seq_id) {
    return treellama_guard(TREELLAMA_EXCEPTION, [&] {
        llama_memory_seq_keep(llama_get_memory(ctx), seq_id);
        return 0;
    });
}

int32_t treellama_memory_seq_add(llama_context * ctx, llama_seq_id seq_id, llama_pos p0, llama_pos p1, llama_pos delta) {
    return treellama_guard(TREELLAMA_EXCEPTION, [&] {
        // what falls below 0 is removed, and llama.cpp does so with cells alone
        for (const llama_seq_id s : sharers_of_state(ctx, seq_id)) {
            const auto * recr = llama_find_recurrent(ctx->get_memory());
            const llama_pos pos = recr->cells[recr->cells[s].tail].pos;

            if (p0 <= pos && (p1 < 0 || pos < p1) && pos + delta < 0) {
                llama_memory_seq_rm(llama_get_memory(ctx), s, -1, -1);
            }
        }

        llama_memory_seq_add(llama_get_memory(ctx), seq_id, p0, p1, delta);
        return 0;
    });
}

int32_t treellama_memory_seq_div(llama_context * ctx, llama_seq_id seq_id, llama_pos p0, llama_pos p1, int32_t d) {
    return treellama_guard(TREELLAMA_EXCEPTION, [&] {
        llama_memory_seq_div(llama_get_memory(ctx), seq_id, p0, p1, d);
        return 0;
    });
}

// whether the devices that hold a context's keys can turn them to other positions
static bool can_turn_keys(const llama_context * ctx) {
    for (const auto * cache : { treellama_find_cache(ctx, false), treellama_find_cache(ctx, true) }) {
        // one of the two has no layers where all of a model's have sliding windows, or none
        const bool has_keys = cache && !cache->get_layer_ids().empty();
        if (has_keys && !treellama_can_turn_keys(ctx->get_model(), ctx->get_cparams().offload_kqv, cache->type_k())) {
            return false;
        }
    }
    return true;
}

bool treellama_memory_can_shift(llama_context * ctx) {
    return llama_memory_can_shift(llama_get_memory(ctx)) && !ctx->get_model().pos_embd && can_turn_keys(ctx);
}

int32_t treellama_memory_update(llama_context * ctx) {
    return treellama_catch(TREELLAMA_EXCEPTION, [&] {
        ctx->memory_update(false);
        return 0;
    });
}

int32_t treellama_memory_ranges(
        llama_context * ctx, const llama_seq_id * seq_ids, int32_t n_seqs, llama_pos * pos_min, llama_pos * pos_max) {
    return treellama_guard(TREELLAMA_EXCEPTION, [&] {
        llama_memory_t memory = llama_get_memory(ctx);
        for (int32_t i = 0; i < n_seqs; ++i) {
            pos_min[i] = llama_memory_seq_pos_min(memory, seq_ids[i]);
            pos_max[i] = llama_memory_seq_pos_max(memory, seq_ids[i]);
        }
        return 0;
    });
}

bool treellama_memory_is_shared(llama_context * ctx, llama_seq_id seq_id) {
    if (sharers_of_state(ctx, seq_id).size() > 1) {
        return true;
    }

    const auto * cache = find_cells(ctx);
    if (!cache) {
        return false;
    }

    const auto & cells = cache->get_cells(seq_id);
    for (uint32_t i = 0; i < cells.size(); ++i) {
        if (!cells.is_empty(i) && cells.seq_has(i, seq_id) && cells.seq_count(i) > 1) {
            return true;
        }
    }

    return false;
}

bool treellama_memory_would_mix(llama_context * ctx, llama_seq_id src, llama_seq_id dst, llama_pos p0, llama_pos p1) {
    const auto * cache = treellama_find_cache(ctx, false);
    if (!cache) {
        return true;
    }

    const auto & cells = cache->get_cells(src);

    // the positions that a copy would bring
    llama_pos first = -1;
    llama_pos last  = -1;
    for (uint32_t i = 0; i < cells.size(); ++i) {
        if (cells.is_empty(i) || !cells.seq_has(i, src) || cells.pos_get(i) < p0 || cells.pos_get(i) > p1) {
            continue;
        }
        first = first < 0 ? cells.pos_get(i) : std::min(first, cells.pos_get(i));
        last  = std::max(last, cells.pos_get(i));
    }

    for (uint32_t i = 0; first >= 0 && i < cells.size(); ++i) {
        const bool is_own = !cells.is_empty(i) && cells.seq_has(i, dst) && !cells.seq_has(i, src);
        if (is_own && cells.pos_get(i) >= first && cells.pos_get(i) <= last) {
            return true;
        }
    }

    return false;
}

int32_t treellama_n_cells_used(llama_context * ctx, llama_seq_id seq_id) {
    const auto * cache = find_cells(ctx);
    return cache ? (int32_t) cache->get_cells(seq_id).get_used() : -1;
}
