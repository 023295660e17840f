#include "llama-state-trees.h"

#include "llama-context.h"
#include "llama-graph.h"
#include "llama-impl.h"
#include "llama-kv-cache-trees.h"
#include "llama-kv-cache.h"
#include "llama-memory-hybrid-idx.h"
#include "llama-memory-hybrid-iswa.h"
#include "llama-memory-hybrid.h"
#include "llama-memory-recurrent.h"
#include "llama-state-tree-input.h"

#include <algorithm>
#include <cstring>
#include <stdexcept>
#include <unordered_map>
#include <unordered_set>

llama_memory_recurrent * llama_find_recurrent(const llama_memory_i * mem) {
    if (dynamic_cast<const llama_memory_hybrid_idx *>(mem)) {
        return nullptr;
    }
    if (const auto * hybrid = dynamic_cast<const llama_memory_hybrid *>(mem)) {
        return hybrid->get_mem_recr();
    }
    if (const auto * hybrid = dynamic_cast<const llama_memory_hybrid_iswa *>(mem)) {
        return hybrid->get_mem_recr();
    }
    return const_cast<llama_memory_recurrent *>(dynamic_cast<const llama_memory_recurrent *>(mem));
}

llama_kv_trees * llama_find_trees(const llama_memory_i * mem) {
    // asked for each sequence of a batch: no list of caches
    const auto * cache = llama_find_kv_cache(llama_find_attention(mem), false);
    if (dynamic_cast<const llama_memory_hybrid_idx *>(mem) || (cache && !llama_kv_cache_trees::can_hold(*cache))) {
        return nullptr;
    }

    if (const auto * recr = llama_find_recurrent(mem)) {
        return recr->state_trees.is_supported() ? recr->state_trees.trees.get() : nullptr;
    }
    return cache ? cache->trees.trees.get() : nullptr;
}

//
// the graph of a pass
//

void llama_state_trees::init(const llama_memory_recurrent & mem, ggml_cgraph * gf, uint32_t n_slots_max) {
    for (const auto * layers : { &mem.r_l, &mem.s_l, &mem.p_l }) {
        for (const auto * t : *layers) {
            if (t && ggml_nelements(t) > 0) {
                caches.insert(t);
            }
        }
    }

    const bool is_host = std::all_of(caches.begin(), caches.end(), [](const auto * t) {
        return t->type == GGML_TYPE_F32 && ggml_backend_buffer_is_host(t->buffer);
    });

    if (is_host && mem.n_rs_seq == 0 && llama_are_states_known(caches, gf)) {
        n_slots = n_slots_max;
        clear();
    }
}

llama_ubatch llama_state_trees::split(llama_batch_allocr & balloc, uint32_t n_ubatch) {
    llama_ubatch res = balloc.split_simple(n_ubatch);

    res.b_equal_seqs = 1;
    res.n_seq_tokens = res.n_tokens;
    res.n_seqs       = std::min(res.n_tokens, 1u);

    return res;
}

void llama_state_trees::place(llama_memory_recurrent & mem) const {
    mem.head = 0;
    mem.n    = 1;
    mem.rs_z = -2; // no row is cleared, and no graph of a text is used again

    // a row is looked at, and nothing made of it
    mem.cells[0].src0 = 0;
}

void llama_state_trees::add_ops(ggml_cgraph * gf) {
    std::vector<ggml_tensor *> nodes;
    for (int i = 0; i < ggml_graph_n_nodes(gf); ++i) {
        if (llama_is_state_op(caches, ggml_graph_node(gf, i))) {
            nodes.push_back(ggml_graph_node(gf, i));
        }
    }

    ggml_init_params params = { llama_state_op::n_kept_max*nodes.size()*ggml_tensor_overhead(), nullptr, true };
    ctx_kept.reset(ggml_init(params));

    for (auto * node : nodes) {
        ops.emplace_back(caches, ctx_kept.get(), node, n_slots);
    }

    buf_kept.reset(ggml_backend_alloc_ctx_tensors_from_buft(ctx_kept.get(), ggml_backend_cpu_buffer_type()));
    if (!buf_kept) {
        throw std::bad_alloc();
    }
}

void llama_state_trees::rewrite(const llama_memory_i * mem, llm_graph_result & res) {
    auto * recr = llama_find_recurrent(mem);
    if (recr && recr->state_trees.adds_nodes()) {
        recr->state_trees.rewrite(*recr, res);
    }
}

void llama_state_trees::rewrite(llama_memory_recurrent & mem, llm_graph_result & res) {
    ggml_cgraph  * gf  = res.get_gf();
    ggml_context * ctx = res.get_ctx();

    if (ops.empty()) {
        add_ops(gf);
    }

    std::vector<ggml_tensor *> nodes;
    for (int i = 0; i < ggml_graph_n_nodes(gf); ++i) {
        nodes.push_back(ggml_graph_node(gf, i));
    }

    std::unique_ptr<llm_graph_input_state_tree> input;
    std::unordered_map<const ggml_tensor *, std::vector<ggml_tensor *>> writes; // by op, what keeps its inputs

    size_t i_op = 0;
    for (auto * node : nodes) {
        if (!llama_is_state_op(caches, node)) {
            continue;
        }
        if (!input) {
            input = std::make_unique<llm_graph_input_state_tree>(*this, mem, ctx, llama_state_op::n_tokens_of(node));
        }

        const auto & op = ops.at(i_op++);
        writes[node] = op.keep(ctx, node, input->slots);
        op.make_tree(ctx, node, input->parents, input->old);
    }

    // what writes states is left out, and what was read for nobody
    std::unordered_set<const ggml_tensor *> used;
    std::vector<ggml_tensor *> left;

    for (auto it = nodes.rbegin(); it != nodes.rend(); ++it) {
        ggml_tensor * node = *it;

        const bool is_moved = llama_is_view(node) || llama_is_gathered(caches, node) ||
            node->op == GGML_OP_CONCAT || node->op == GGML_OP_CONT;
        const bool can_go   = is_moved && !(node->flags & GGML_TENSOR_FLAG_OUTPUT);
        if (llama_writes_state(caches, node) || (can_go && !used.count(node))) {
            continue;
        }
        used.insert(node->src, node->src + GGML_MAX_SRC);
        left.push_back(node);
    }

    ggml_graph_clear(gf);
    for (auto it = left.rbegin(); it != left.rend(); ++it) {
        ggml_build_forward_expand(gf, *it);
        for (auto * write : writes[*it]) {
            ggml_build_forward_expand(gf, write);
        }
    }

    res.add_input(std::move(input));
}

//
// nodes
//

void llama_state_trees::clear() {
    slots.clear();
    free_slots.clear();
    for (uint32_t i = 0; i < n_slots; ++i) {
        free_slots.insert(free_slots.end(), i);
    }
    trees->clear();
}

size_t llama_state_trees::n_bytes_of_node() const {
    size_t res = 0;
    for (const auto & op : ops) {
        res += op.n_bytes_of_token();
    }
    return res;
}

std::vector<std::pair<llama_seq_id, int32_t>> llama_state_trees::old_nodes() const {
    std::vector<std::pair<llama_seq_id, int32_t>> res;

    for (const auto & [seq_id, _] : slots) {
        for (uint32_t n = 0; trees->grows(seq_id) && n < trees->get(seq_id)->n_kept; ++n) {
            res.push_back({ seq_id, n });
        }
    }
    return res;
}

uint32_t llama_state_trees::slot_of(llama_seq_id seq_id, int32_t node) {
    auto & res = slots[seq_id];
    while (res.size() <= (size_t) node) {
        res.push_back(*free_slots.begin());
        free_slots.erase(free_slots.begin());
    }
    return res[node];
}

void llama_state_trees::release(llama_seq_id seq_id, size_t n_kept) {
    const auto it = slots.find(seq_id);
    if (it == slots.end() || it->second.size() <= n_kept) {
        return;
    }

    free_slots.insert(it->second.begin() + n_kept, it->second.end());
    it->second.resize(n_kept);
    if (n_kept == 0) {
        slots.erase(it);
    }
}

void llama_state_trees::undo() {
    std::vector<llama_seq_id> grown;
    for (const auto & [seq_id, _] : slots) {
        if (trees->grows(seq_id)) {
            grown.push_back(seq_id);
        }
    }
    for (const auto seq_id : grown) {
        release(seq_id, trees->get(seq_id)->n_kept);
    }
}

void llama_state_trees::prune(llama_seq_id seq_id, const std::vector<bool> & keep) {
    auto & at = slots.at(seq_id);

    std::vector<uint32_t> kept;
    std::vector<uint32_t> gone;
    for (size_t i = 0; i < keep.size(); ++i) {
        (keep[i] ? kept : gone).push_back(at[i]);
    }

    at = kept;
    free_slots.insert(gone.begin(), gone.end());
}

//
// commit
//

void llama_state_trees::commit_states(llama_context * lctx, const std::vector<int32_t> & at, int64_t src, int64_t dst) {
    const int64_t n = at.size();

    const size_t n_nodes = llama_state_op::n_commit_max*ops.size() + 8;

    ggml_init_params params = { n_nodes*ggml_tensor_overhead() + ggml_graph_overhead_custom(n_nodes, false), nullptr, true };
    ggml_context_ptr ctx_ptr { ggml_init(params) };

    ggml_context * ctx = ctx_ptr.get();
    ggml_cgraph  * gf  = ggml_new_graph_custom(ctx, n_nodes, false);

    ggml_tensor * ids = ggml_new_tensor_1d(ctx, GGML_TYPE_I32, n);
    ggml_tensor * row = ggml_new_tensor_1d(ctx, GGML_TYPE_I32, 1);
    ggml_set_input(ids);
    ggml_set_input(row);

    ggml_tensor * any = nullptr;

    for (const auto & op : ops) {
        if (op.is_window()) {
            op.commit_window(at, src, dst);
        } else {
            any = op.cache;
            ggml_build_forward_expand(gf, op.commit_state(ctx, ids, row, src, dst));
        }
    }

    if (!any) {
        return;
    }
    if (!galloc) {
        galloc.reset(ggml_gallocr_new(ggml_backend_cpu_buffer_type()));
    }
    if (!ggml_gallocr_alloc_graph(galloc.get(), gf)) {
        throw std::bad_alloc();
    }

    std::copy(at.begin(), at.end(), (int32_t *) ids->data);
    if (row->data) {
        *(int32_t *) row->data = src;
    }

    if (ggml_backend_graph_compute(llama_backend_of(lctx->get_sched(), any), gf) != GGML_STATUS_SUCCESS) {
        throw std::runtime_error("failed to let a recurrent state go on over a path of nodes");
    }
}

void llama_state_trees::commit(
        llama_memory_recurrent & mem, llama_context * lctx, llama_seq_id seq_id, const std::vector<int32_t> & path) {
    if (!path.empty()) {
        llama_synchronize(lctx);

        const auto & tree = *trees->get(seq_id);
        const auto & node = slots.at(seq_id);

        std::vector<int32_t>   at;
        std::vector<llama_pos> pos;
        for (const int32_t n : path) {
            at .push_back(node[n]);
            pos.push_back(tree.pos[n]);
        }

        // the cell is found as if the path were text
        std::vector<int32_t>        n_seq_id(path.size(), 1);
        std::vector<llama_seq_id *> seq_ids (path.size(), &seq_id);

        llama_ubatch ubatch = {};
        ubatch.b_equal_seqs = 1;
        ubatch.n_tokens     = path.size();
        ubatch.n_seq_tokens = path.size();
        ubatch.n_seqs       = 1;
        ubatch.n_seqs_unq   = 1;
        ubatch.pos          = pos.data();
        ubatch.n_seq_id     = n_seq_id.data();
        ubatch.seq_id       = seq_ids.data();

        if (!mem.find_slot(ubatch)) {
            throw std::runtime_error("there is no cell for a recurrent state");
        }

        const int64_t dst = mem.head;
        const int64_t src = mem.cells[dst].src0;

        if (src == mem.rs_z) {
            for (const auto * t : caches) {
                memset((char *) t->data + src*t->nb[1], 0, t->nb[1]);
            }
        }

        commit_states(lctx, at, src, dst);
    }

    release(seq_id, 0);
}
