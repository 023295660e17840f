// speculative trees: nodes that join a KV cache, and leave it or become text

#include "treellama-impl.h"

#include "llama-context.h"
#include "llama-impl.h"
#include "llama-kv-cache-dsv4.h"
#include "llama-kv-cache.h"
#include "llama-memory-hybrid-idx.h"
#include "llama-memory-recurrent.h"

#include <algorithm>
#include <map>
#include <numeric>
#include <vector>

llama_kv_cache * treellama_find_cache(const llama_context * ctx, bool swa) {
    return llama_find_kv_cache(ctx->get_memory(), swa);
}

static_assert(TREELLAMA_N_NODES_MAX == llama_kv_trees::n_nodes_max, "what users are told must be what is checked");

// the caches that hold the nodes of a context's trees
static std::vector<llama_kv_cache *> tree_caches(const llama_context * ctx) {
    return llama_find_kv_caches(ctx->get_memory());
}

static llama_kv_trees * find_trees(const llama_context * ctx) {
    return llama_find_trees(ctx->get_memory());
}

void treellama_share_trees(llama_context * ctx) {
    const auto caches = ctx ? tree_caches(ctx) : std::vector<llama_kv_cache *>();

    for (auto * cache : caches) {
        cache->trees.trees = caches[0]->trees.trees;
    }

    auto * recr = ctx ? llama_find_recurrent(ctx->get_memory()) : nullptr;
    if (recr && !caches.empty()) {
        recr->state_trees.trees = caches[0]->trees.trees;
    }
    // with a stream a sequence, a pass over unequal trees is several. ops of devices know no parents, and a scheduler gives
    //   them whatever their weights are in
    if (recr && treellama_is_on_host(ctx) && (caches.empty() || caches[0]->get_n_stream() == 1)) {
        recr->state_trees.init(*recr, ctx->get_gf_res_reserve()->get_gf(), ctx->n_ubatch());
    }
}

void treellama_use_huge_pages(llama_context * ctx) {
    for (const auto * cache : ctx ? tree_caches(ctx) : std::vector<llama_kv_cache *>()) {
        llama_kv_cache_trees::use_huge_pages(*cache);
    }
}

const char * treellama_tree_refusal(const llama_context * ctx) {
    if (find_trees(ctx)) {
        return nullptr;
    }

    const auto * mem = ctx->get_memory();
    if (dynamic_cast<const llama_memory_hybrid_idx *>(mem)) {
        return "its indexer pools the keys of several positions, which differ between branches";
    }
    if (dynamic_cast<const llama_kv_cache_dsv4 *>(mem)) {
        return "its compressors make one cell of several positions, which differ between branches";
    }
    if (llama_find_recurrent(mem)) {
        const auto caches = tree_caches(ctx);
        return !caches.empty() && caches[0]->get_n_stream() > 1 ?
            "each sequence has cells of its own (kv_unified=False)" :
            !treellama_is_on_host(ctx) ?
            "the ops of a GPU know no parents (n_gpu_layers=0 decodes on the CPU alone)" :
            "an op that reads its state knows no parents";
    }
    return "its cells cannot know their nodes";
}

size_t treellama_tree_node_size(const llama_context * ctx) {
    const auto * recr = llama_find_recurrent(ctx->get_memory());
    return recr ? recr->state_trees.n_bytes_of_node() : 0;
}

bool treellama_is_text(const llama_context * ctx, const llama_batch & batch) {
    const auto * trees = find_trees(ctx);

    for (int32_t i = 0; trees && !trees->empty() && i < batch.n_tokens; ++i) {
        for (int32_t s = 0; s < batch.n_seq_id[i]; ++s) {
            if (trees->get(batch.seq_id[i][s])) {
                LLAMA_LOG_ERROR("sequence %d has pending nodes: commit or discard them before its text goes on\n", batch.seq_id[i][s]);
                return false;
            }
        }
    }

    return true;
}

// nodes that begin with their parents' states come in one pass, where each token has one state
static bool can_begin_with_states(const llama_context & ctx, const llama_state_trees & states, const llama_batch & batch) {
    for (int32_t i = 0; i < batch.n_tokens; ++i) {
        if (batch.n_seq_id[i] != 1) {
            LLAMA_LOG_ERROR("token %d of the batch belongs to %d sequences: a model with a recurrent state takes no such "
                    "token in a pass with nodes\n", i, batch.n_seq_id[i]);
            return false;
        }
    }

    if (batch.n_tokens > (int32_t) ctx.n_ubatch() || batch.n_tokens > (int32_t) states.n_free()) {
        LLAMA_LOG_ERROR("%d nodes in one pass: a model with a recurrent state takes %d, pending ones included\n",
                batch.n_tokens, (int) states.n_free());
        return false;
    }

    return true;
}

// the text among the nodes of a batch, as trees of one path: states cannot go on in one pass and stay in the same
struct text_of_batch {
    std::vector<int32_t> parents;

    std::map<llama_seq_id, int32_t> n_tokens; // by sequence

    text_of_batch(const llama_batch & batch, const int32_t * given) : parents(given, given + batch.n_tokens) {
        for (int32_t i = 0; i < batch.n_tokens; ++i) {
            if (parents[i] == TREELLAMA_TEXT && batch.n_seq_id[i] == 1) {
                parents[i] = n_tokens[batch.seq_id[i][0]]++ - 1;
            }
        }
    }

    bool commit(llama_context * ctx) const {
        bool res = true;
        for (const auto & [seq_id, n] : n_tokens) {
            std::vector<int32_t> path(n);
            std::iota(path.begin(), path.end(), 0);
            res = res && treellama_tree_commit(ctx, seq_id, path.data(), n) == 0;
        }
        return res;
    }
};

// announce the nodes of a batch; false if one cannot be a node, or a sequence has nodes and text
static bool add_nodes(llama_context * ctx, llama_kv_trees & trees, const llama_batch & batch, const int32_t * parents) {
    const auto * recr = llama_find_recurrent(ctx->get_memory());

    if (recr && !can_begin_with_states(*ctx, recr->state_trees, batch)) {
        return false;
    }

    trees.begin(batch.n_tokens);

    for (int32_t i = 0; i < batch.n_tokens; ++i) {
        if (parents[i] == TREELLAMA_TEXT) {
            continue;
        }

        const llama_seq_id seq_id = batch.seq_id[i][0];
        if (batch.n_seq_id[i] != 1 || seq_id < 0 || seq_id >= (llama_seq_id) ctx->n_seq_max()) {
            LLAMA_LOG_ERROR("token %d of the batch cannot be a node: it must belong to one sequence, from 0 to %d\n", i, (int) ctx->n_seq_max() - 1);
            return false;
        }

        if (!trees.add(i, seq_id, batch.pos[i], parents[i], llama_memory_seq_pos_max(ctx->get_memory(), seq_id))) {
            LLAMA_LOG_ERROR("token %d of the batch cannot be a node with parent %d at position %d: a parent stands before its "
                    "child and one position before it, and a sequence has %d nodes at most\n",
                    i, parents[i], batch.pos[i], (int) llama_kv_trees::n_nodes_max);
            return false;
        }
    }

    for (int32_t i = 0; i < batch.n_tokens; ++i) {
        for (int32_t s = 0; parents[i] == TREELLAMA_TEXT && s < batch.n_seq_id[i]; ++s) {
            if (trees.get(batch.seq_id[i][s])) {
                LLAMA_LOG_ERROR("token %d of the batch is text of sequence %d, which has nodes\n", i, batch.seq_id[i][s]);
                return false;
            }
        }
    }

    return true;
}

namespace {

// whatever ends a batch, no half of its nodes stays behind
struct batch_of_nodes {
    llama_context  * ctx;
    llama_kv_trees * trees;

    bool success = false;

    ~batch_of_nodes() {
        for (auto * cache : tree_caches(ctx)) {
            if (!success) {
                cache->trees.undo(*cache);
            }
        }
        auto * recr = llama_find_recurrent(ctx->get_memory());
        if (recr && !success) {
            recr->state_trees.undo();
        }
        trees->end(success);
    }
};

}

int32_t treellama_tree_decode(llama_context * ctx, const llama_batch * batch, const int32_t * parents) {
    return treellama_catch(TREELLAMA_EXCEPTION, [&] {
        auto * trees = find_trees(ctx);
        if (!trees) {
            LLAMA_LOG_ERROR("the memory of this model cannot hold trees\n");
            return -1;
        }

        text_of_batch text(*batch, parents);
        const bool has_states = llama_find_recurrent(ctx->get_memory());

        int32_t status;
        {
            batch_of_nodes nodes { ctx, trees };
            if (!add_nodes(ctx, *trees, *batch, has_states ? text.parents.data() : parents)) {
                return -1;
            }

            status = treellama_decode_checked(ctx, *batch);
            nodes.success = status == 0;
        }

        return status == 0 && has_states && !text.commit(ctx) ? TREELLAMA_EXCEPTION : status;
    });
}

int32_t treellama_tree_decode_one(
        llama_context * ctx, llama_seq_id seq_id, const llama_token * tokens, const int32_t * parents,
        const int32_t * depths, int32_t n_nodes) {
    const llama_pos n_past = llama_memory_seq_pos_max(llama_get_memory(ctx), seq_id) + 1;

    std::vector<llama_pos>      pos     (n_nodes);
    std::vector<int32_t>        n_seq_id(n_nodes, 1);
    std::vector<llama_seq_id *> seq_ids (n_nodes, &seq_id);
    std::vector<int8_t>         output  (n_nodes, 1);

    for (int32_t i = 0; i < n_nodes; ++i) {
        pos[i] = n_past + depths[i];
    }

    const llama_batch batch = {
        n_nodes, const_cast<llama_token *>(tokens), nullptr, pos.data(), n_seq_id.data(), seq_ids.data(), output.data()
    };

    return treellama_tree_decode(ctx, &batch, parents);
}

int32_t treellama_tree_nodes(const llama_context * ctx, llama_seq_id seq_id, int32_t * parents, llama_pos * pos) {
    const auto * trees = find_trees(ctx);
    const auto * tree  = trees ? trees->get(seq_id) : nullptr;
    if (!tree) {
        return 0;
    }

    for (uint32_t i = 0; parents && i < tree->n_nodes(); ++i) {
        parents[i] = tree->parents[i];
        pos[i]     = tree->pos[i];
    }

    return (int32_t) tree->n_nodes();
}

// a path goes from the text from parent to child
static bool is_path(const llama_kv_tree & tree, const std::vector<int32_t> & path) {
    int32_t parent = -1;

    for (const int32_t node : path) {
        if (node < 0 || node >= (int32_t) tree.n_nodes() || tree.parents[node] != parent) {
            return false;
        }
        parent = node;
    }

    return true;
}

int32_t treellama_commit(llama_context * ctx, llama_seq_id seq_id, const int32_t * path, int32_t n_path, bool in_place) {
    // not treellama_guard: a recurrent state may compute a graph
    return treellama_catch(TREELLAMA_EXCEPTION, [&] {
        auto * trees = find_trees(ctx);
        const auto * tree = trees ? trees->get(seq_id) : nullptr;

        const std::vector<int32_t> nodes(path, path + n_path);
        if (!tree || !is_path(*tree, nodes)) {
            return -1;
        }

        treellama_turn     turn(ctx);
        treellama_no_abort whole; // a part of it is no text

        for (auto * cache : tree_caches(ctx)) {
            cache->trees.commit(*cache, ctx, seq_id, nodes, in_place);
        }
        if (auto * recr = llama_find_recurrent(ctx->get_memory())) {
            recr->state_trees.commit(*recr, ctx, seq_id, nodes);
        }
        trees->erase(seq_id);

        return 0;
    });
}

int32_t treellama_tree_commit(llama_context * ctx, llama_seq_id seq_id, const int32_t * path, int32_t n_path) {
    return treellama_commit(ctx, seq_id, path, n_path, false);
}

// whoever is kept has a parent that is
static bool can_prune(const llama_kv_tree & tree, const std::vector<bool> & keep) {
    bool res = keep.size() == tree.n_nodes();

    for (size_t i = 0; res && i < keep.size(); ++i) {
        res = !keep[i] || tree.parents[i] < 0 || keep[tree.parents[i]];
    }

    return res;
}

int32_t treellama_tree_prune(llama_context * ctx, llama_seq_id seq_id, const bool * keep, int32_t n_nodes) {
    return treellama_catch(TREELLAMA_EXCEPTION, [&] {
        auto * trees = find_trees(ctx);
        const auto * tree = trees ? trees->get(seq_id) : nullptr;

        const std::vector<bool> kept(keep, keep + n_nodes);
        if (!tree || !can_prune(*tree, kept)) {
            return -1;
        }

        if (std::find(kept.begin(), kept.end(), true) == kept.end()) {
            return treellama_tree_discard(ctx, seq_id);
        }

        for (auto * cache : tree_caches(ctx)) {
            cache->trees.prune(*cache, seq_id, kept);
        }
        if (auto * recr = llama_find_recurrent(ctx->get_memory())) {
            recr->state_trees.prune(seq_id, kept);
        }
        trees->prune(seq_id, kept);

        return 0;
    });
}

int32_t treellama_tree_discard(llama_context * ctx, llama_seq_id seq_id) {
    auto * trees = find_trees(ctx);
    return trees && trees->get(seq_id) ? treellama_tree_commit(ctx, seq_id, nullptr, 0) : 0;
}
