#include "treellama-kept.h"

#include "treellama-draw-impl.h"
#include "treellama-impl.h"

#include <algorithm>
#include <numeric>

int32_t treellama_kept_of_row(
        const treellama_row_sampler * sampler, const float * logits, int32_t n_vocab, const uint32_t * allowed,
        llama_token * ids) {
    return treellama_guard((int32_t) TREELLAMA_EXCEPTION, [&]() -> int32_t {
        treellama_kept kept;
        if (!treellama_keep(*sampler, logits, n_vocab, allowed, kept)) {
            return 0;
        }
        if (kept.order == treellama_order::whole) {
            std::iota(ids, ids + n_vocab, 0);
            return n_vocab;
        }
        std::copy(kept.ids.begin(), kept.ids.end(), ids);
        return (int32_t) kept.ids.size();
    });
}

int32_t treellama_kept_of_chain(
        llama_sampler * chain, const float * logits, int32_t n_vocab, const uint32_t * allowed,
        llama_token_data * candidates, llama_token * ids) {
    return treellama_guard((int32_t) TREELLAMA_EXCEPTION, [&] {
        size_t n = 0;
        for (llama_token id = 0; id < n_vocab; ++id) {
            if (!allowed || (allowed[id/32] >> (id%32)) & 1) {
                candidates[n++] = { id, logits[id], 0.0f };
            }
        }

        llama_token_data_array cur = { candidates, n, -1, false };
        llama_sampler_apply(chain, &cur);
        for (size_t i = 0; i < cur.size; ++i) {
            ids[i] = cur.data[i].id;
        }
        return (int32_t) cur.size;
    });
}
