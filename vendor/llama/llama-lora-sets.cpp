#include "llama-lora-sets.h"

#include "llama-context.h"
#include "llama-kept-graphs.h"
#include "llama-model.h"

#include <algorithm>
#include <set>

static constexpr size_t N_SETS_MAX    = 1024;
static constexpr size_t N_BUCKETS_MAX = 1 << 16;

static uint32_t count_nodes(const llama_model & model) {
    uint32_t res = 0;
    for (const auto * lora : model.loras) {
        res += lora->get_n_nodes();
    }
    return res;
}

static bool is_set(const llama_adapter_loras & set, llama_adapter_lora * const * adapters, const float * scales, size_t n) {
    for (size_t i = 0; i < n; ++i) {
        const auto found = set.find(adapters[i]);
        if (found == set.end() || found->second != scales[i]) {
            return false;
        }
    }
    return set.size() == n;
}

// graphs add the adapters in the map's order: if no two share a bucket, it is that in which they came in, whatever their
// addresses are
static std::unique_ptr<llama_adapter_loras> make_set(llama_adapter_lora * const * adapters, const float * scales, size_t n) {
    auto res = std::make_unique<llama_adapter_loras>();

    const auto has_own_buckets = [&] {
        std::set<size_t> buckets;
        for (size_t i = 0; i < n; ++i) {
            buckets.insert(res->bucket(adapters[i]));
        }
        return buckets.size() == n;
    };
    for (size_t n_buckets = 2*n + 1; n_buckets < N_BUCKETS_MAX && !has_own_buckets(); n_buckets += n_buckets/2) {
        res->rehash(n_buckets);
    }

    for (size_t i = 0; i < n; ++i) {
        res->insert({ adapters[i], scales[i] });
    }
    return res;
}

void llama_lora_sets::use(llama_context & ctx, llama_adapter_lora * const * adapters, const float * scales, size_t n) {
    auto & loras = llama_kept_graphs::loras_of(ctx);

    if (loras.get() == cur && is_set(*loras, adapters, scales, n)) {
        return;
    }

    // room for the nodes of new adapters: all graphs are made again, so all sets may go
    const uint32_t n_nodes_now = count_nodes(ctx.get_model());
    if (n_nodes_now > n_nodes || sets.size() == N_SETS_MAX) {
        loras = make_set(adapters, scales, n);
        llama_kept_graphs::reserve(ctx);
        sets.clear();
        n_nodes = n_nodes_now;
        cur     = loras.get();
        return;
    }

    // the context owns the set in use, the others are here
    const auto found = std::find_if(sets.begin(), sets.end(), [&](const auto & set) { return is_set(*set, adapters, scales, n); });
    if (found != sets.end()) {
        std::swap(*found, loras);
    } else {
        sets.push_back(std::move(loras));
        loras = make_set(adapters, scales, n);
    }
    cur = loras.get();
}
