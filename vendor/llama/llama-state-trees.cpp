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

static bool is_view(const ggml_tensor * t) {
    switch (t->op) {
        case GGML_OP_NONE:
        case GGML_OP_VIEW:
        case GGML_OP_RESHAPE:
        case GGML_OP_PERMUTE:
        case GGML_OP_TRANSPOSE:
            return true;
        default:
            return false;
    }
}

static ggml_tensor * root_of(ggml_tensor * t) {
    return t->view_src ? t->view_src : t;
}

static bool is_state_op(const ggml_tensor * t) {
    return t->op == GGML_OP_SSM_CONV || t->op == GGML_OP_SSM_SCAN || t->op == GGML_OP_GATED_DELTA_NET;
}

using tensor_set = std::set<const ggml_tensor *>;

static bool is_from(const tensor_set & caches, ggml_tensor * t) {
    return caches.count(root_of(t)) > 0;
}

static bool writes_state(const tensor_set & caches, ggml_tensor * t) {
    return !is_view(t) && is_from(caches, t);
}

// states that were read from a cache
static bool is_gathered(const tensor_set & caches, ggml_tensor * t) {
    return t->op == GGML_OP_GET_ROWS && is_from(caches, t->src[0]);
}

// where a state stands in its cache: the tensor, and the offset in its rows
static std::pair<ggml_tensor *, size_t> find_state(const tensor_set & caches, ggml_tensor * t) {
    size_t offset = 0;

    while (!is_gathered(caches, t) && !caches.count(t)) {
        offset += t->view_offs;
        t = t->view_src ? t->view_src : t->op == GGML_OP_CONT ? t->src[0] : nullptr;
        if (!t) {
            return { nullptr, 0 };
        }
    }
    return { root_of(is_gathered(caches, t) ? t->src[0] : t), offset };
}

// the state that an op begins with
static ggml_tensor *& state_of(ggml_tensor * t) {
    switch (t->op) {
        case GGML_OP_SSM_CONV: return t->src[0]->src[0]; // the first part of the window
        case GGML_OP_SSM_SCAN: return t->src[0];
        default:               return t->src[5];
    }
}

// whether all ops that read states are known, and nothing else is made of the states
static bool are_known(const tensor_set & caches, ggml_cgraph * gf) {
    std::unordered_set<const ggml_tensor *> states;
    std::unordered_set<const ggml_tensor *> windows;

    bool res = false;

    for (int i = 0; i < ggml_graph_n_nodes(gf); ++i) {
        ggml_tensor * node = ggml_graph_node(gf, i);
        if (is_view(node)) {
            continue;
        }

        const bool is_write = writes_state(caches, node);
        if (is_write && node->op != GGML_OP_CPY && node->op != GGML_OP_FILL) {
            return false;
        }

        for (int j = 0; j < GGML_MAX_SRC; ++j) {
            ggml_tensor * src = node->src[j] ? root_of(node->src[j]) : nullptr;

            if (!src || is_write) {
                continue;
            }
            if (caches.count(src)) {
                if (j != 0 || (node->op != GGML_OP_GET_ROWS && node->op != GGML_OP_SSM_SCAN)) {
                    return false;
                }
                if (node->op == GGML_OP_GET_ROWS) {
                    states.insert(node);
                }
            } else if (states.count(src)) {
                if (j == 0 && node->op == GGML_OP_CONT) {
                    states.insert(node);
                } else if (j == 0 && node->op == GGML_OP_CONCAT && node->op_params[0] == 0) {
                    windows.insert(node);
                } else if (j != 5 || node->op != GGML_OP_GATED_DELTA_NET) {
                    return false;
                }
            } else if (windows.count(src) && (j != 0 || node->op != GGML_OP_SSM_CONV || node->src[0] != src)) {
                return false;
            }
        }

        if (is_state_op(node)) {
            const bool is_conv = node->op == GGML_OP_SSM_CONV;
            if ((is_conv && !windows.count(node->src[0])) || !find_state(caches, state_of(node)).first) {
                return false;
            }
            // a tree has no states of its own to show, and Mamba's decay must be there when a path is committed
            if ((!is_conv && node->op_params[0] != 1) ||
                (node->op == GGML_OP_SSM_SCAN && root_of(node->src[3])->op != GGML_OP_NONE)) {
                return false;
            }
            res = true;
        }
    }

    return res;
}

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

    if (is_host && mem.n_rs_seq == 0 && are_known(caches, gf)) {
        n_slots = n_slots_max;
        clear();
    }
}

// what the ops of a pass over nodes want to know
class llm_graph_input_state_tree : public llm_graph_input_i {
public:
    llm_graph_input_state_tree(llama_state_trees & trees, const llama_memory_recurrent & mem, ggml_context * ctx, int64_t n_tokens) :
        trees(trees), mem(mem) {
        const int64_t n_old = trees.old_nodes().size();

        parents = ggml_new_tensor_1d(ctx, GGML_TYPE_I32, n_tokens + n_old);
        slots   = ggml_new_tensor_1d(ctx, GGML_TYPE_I64, n_tokens);

        ggml_set_name(parents, "state_tree_parents");
        ggml_set_name(slots,   "state_tree_slots");

        if (n_old > 0) {
            old = ggml_new_tensor_1d(ctx, GGML_TYPE_I32, n_old);
            ggml_set_name(old, "state_tree_old");
            ggml_set_input(old);
        }

        ggml_set_input(parents);
        ggml_set_input(slots);
    }

    void set_input(const llama_ubatch * ubatch) override {
        auto * parent = (int32_t *) parents->data;
        auto * slot   = (int64_t *) slots->data;

        // the nodes of this pass, and behind them those that they may hang on
        std::vector<std::pair<llama_seq_id, int32_t>> nodes;
        for (uint32_t i = 0; i < ubatch->n_tokens; ++i) {
            nodes.push_back({ ubatch->seq_id[i][0], trees.trees->batch_node(*ubatch, i) });
        }
        const auto old_nodes = trees.old_nodes();
        nodes.insert(nodes.end(), old_nodes.begin(), old_nodes.end());

        std::map<std::pair<llama_seq_id, int32_t>, int32_t> place;
        for (size_t i = 0; i < nodes.size(); ++i) {
            place[nodes[i]] = i;
        }

        for (size_t i = 0; i < nodes.size(); ++i) {
            const auto [seq_id, node] = nodes[i];
            const int32_t p = trees.trees->get(seq_id)->parents[node];

            parent[i] = p < 0 ? row_of(seq_id) : place.at({ seq_id, p });

            if (i < ubatch->n_tokens) {
                slot[i] = trees.slot_of(seq_id, node);
            } else {
                ((int32_t *) old->data)[i - ubatch->n_tokens] = trees.slot_of(seq_id, node);
            }
        }
    }

    bool can_reuse(const llm_graph_params & params) override {
        const int64_t n_old = trees.old_nodes().size();

        return slots->ne[0] == params.ubatch.n_tokens && (old ? old->ne[0] : 0) == n_old;
    }

    ggml_tensor * parents;       // I32 [n_tokens + n_old], see ggml-cpu/states/tree.h
    ggml_tensor * slots;         // I64 [n_tokens]
    ggml_tensor * old = nullptr; // I32 [n_old] slots of nodes that were there before; nullptr if there are none

private:
    int32_t row_of(llama_seq_id seq_id) const {
        const int32_t tail = mem.cells[seq_id].tail;
        const int32_t row  = tail < 0 ? -1 : mem.cells[tail].src;

        return row < 0 ? -1 : -2 - row;
    }

    llama_state_trees & trees;

    const llama_memory_recurrent & mem;
};

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

// rows of a cache as states of an op
static ggml_tensor * view_states(ggml_context * ctx, ggml_tensor * cache, const int64_t * ne, size_t offset, int64_t n_rows) {
    return ggml_view_4d(ctx, cache, ne[0], ne[1], ne[2], n_rows,
            ne[0]*sizeof(float), ne[0]*ne[1]*sizeof(float), cache->nb[1], offset);
}

// the tensors that an op reads, besides its state, with a column or slice for each token
static std::vector<ggml_tensor *> inputs_of(ggml_context * ctx, const ggml_tensor * node) {
    switch (node->op) {
        case GGML_OP_SSM_CONV: return { ggml_transpose(ctx, node->src[0]->src[1]) };
        case GGML_OP_SSM_SCAN: return { node->src[1], node->src[2], node->src[4] };          // x, dt, B
        default:               return { node->src[1], node->src[2], node->src[3], node->src[4] }; // k, v, g, beta
    }
}

// [n_values, n_tokens]
static ggml_tensor * by_token(ggml_context * ctx, ggml_tensor * t, int64_t n_tokens) {
    ggml_tensor * cur = ggml_is_contiguous(t) ? t : ggml_cont(ctx, t);
    return ggml_reshape_2d(ctx, cur, ggml_nelements(t)/n_tokens, n_tokens);
}

static int64_t n_tokens_of(const ggml_tensor * node) {
    switch (node->op) {
        case GGML_OP_SSM_CONV: return node->ne[1];
        case GGML_OP_SSM_SCAN: return node->src[1]->ne[2];
        default:               return node->src[2]->ne[2];
    }
}

void llama_state_trees::add_ops(ggml_cgraph * gf) {
    std::vector<ggml_tensor *> nodes;
    for (int i = 0; i < ggml_graph_n_nodes(gf); ++i) {
        if (is_state_op(ggml_graph_node(gf, i))) {
            nodes.push_back(ggml_graph_node(gf, i));
        }
    }

    ggml_init_params params = { 8*nodes.size()*ggml_tensor_overhead(), nullptr, true };
    ctx_kept.reset(ggml_init(params));
    ggml_context_ptr ctx_views { ggml_init(params) };

    for (auto * node : nodes) {
        const auto state = find_state(caches, state_of(node));

        state_op op { node->op, state.first, state.second, {}, nullptr, {} };
        std::copy_n(state_of(node)->ne, 4, op.ne);

        if (node->op == GGML_OP_SSM_SCAN) {
            op.decay = node->src[3];
        }

        for (const auto * t : inputs_of(ctx_views.get(), node)) {
            // dt alone has its tokens in the second dimension
            const bool is_flat = t->ne[1] == n_tokens_of(node) && ggml_nelements(t) == t->ne[0]*t->ne[1];

            kept_value value { { t->ne[0], is_flat ? 1 : t->ne[1] }, nullptr };
            value.rows = ggml_new_tensor_2d(ctx_kept.get(), GGML_TYPE_F32, value.ne[0]*value.ne[1], n_slots);
            op.kept.push_back(value);
        }
        ops.push_back(std::move(op));
    }

    buf_kept.reset(ggml_backend_alloc_ctx_tensors_from_buft(ctx_kept.get(), ggml_backend_cpu_buffer_type()));
    if (!buf_kept) {
        throw std::bad_alloc();
    }
}

// let an op read the old nodes behind the tokens of the pass. A node's parent may be any of them; what an op makes of them
// stands behind what the graph looks at
static void append_old(ggml_context * ctx, ggml_tensor * node, const std::vector<ggml_tensor *> & old) {
    const auto append = [&](ggml_tensor *& src, ggml_tensor * more, int dim) {
        src = ggml_concat(ctx, src, more, dim);
    };
    // a result of other size; its views keep their place
    const auto resize = [&](int64_t ne0, int64_t ne1) {
        node->ne[0] = ne0;
        node->ne[1] = ne1;
        node->nb[1] = ne0*sizeof(float);
        node->nb[2] = node->nb[3] = ne0*ne1*sizeof(float);
    };

    const int64_t n_old = old[0]->ne[node->op == GGML_OP_SSM_CONV ? 1 : 2];

    switch (node->op) {
        case GGML_OP_SSM_CONV:
            append(node->src[0], ggml_cont(ctx, ggml_transpose(ctx, old[0])), 0);
            break;
        case GGML_OP_SSM_SCAN:
            resize(node->ne[0] + n_old*old[0]->ne[0]*old[0]->ne[1], 1);
            append(node->src[1], old[0], 2);
            append(node->src[2], ggml_reshape_2d(ctx, old[1], old[1]->ne[0], n_old), 1);
            append(node->src[4], old[2], 2);
            append(node->src[5], old[2], 2); // what is read of them is not looked at
            break;
        default:
            resize(node->ne[0], node->ne[1] + n_old);
            append(node->src[0], old[0], 2); // nor is this
            for (int i = 0; i < 4; ++i) {
                append(node->src[1 + i], old[i], 2);
            }
            break;
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
        if (!is_state_op(node)) {
            continue;
        }

        const auto    & op       = ops.at(i_op++);
        const int64_t   n_tokens = n_tokens_of(node);

        if (!input) {
            input = std::make_unique<llm_graph_input_state_tree>(*this, mem, ctx, n_tokens);
        }

        const auto inputs = inputs_of(ctx, node);
        for (size_t i = 0; i < inputs.size(); ++i) {
            writes[node].push_back(ggml_set_rows(ctx, op.kept[i].rows, by_token(ctx, inputs[i], n_tokens), input->slots));
        }
        if (input->old) {
            std::vector<ggml_tensor *> old;
            for (const auto & value : op.kept) {
                const int64_t n_old = input->old->ne[0];
                ggml_tensor * rows  = ggml_get_rows(ctx, value.rows, input->old);
                old.push_back(node->op == GGML_OP_SSM_CONV ? rows : ggml_reshape_3d(ctx, rows, value.ne[0], value.ne[1], n_old));
            }
            append_old(ctx, node, old);
        }

        const auto & cache = op.cache;
        switch (node->op) {
            case GGML_OP_SSM_CONV:
                node->src[2] = input->parents;
                node->src[3] = ggml_view_2d(ctx, cache, op.ne[0]*op.ne[1], cache->ne[1], cache->nb[1], op.offset);
                break;
            case GGML_OP_SSM_SCAN:
                node->src[7] = input->parents;
                break;
            default:
                node->src[5] = view_states(ctx, cache, op.ne, op.offset, cache->ne[1]);
                node->src[6] = input->parents;
                break;
        }
    }

    // what writes states is left out, and what was read for nobody
    std::unordered_set<const ggml_tensor *> used;
    std::vector<ggml_tensor *> left;

    for (auto it = nodes.rbegin(); it != nodes.rend(); ++it) {
        ggml_tensor * node = *it;

        const bool can_go = (is_view(node) || is_gathered(caches, node)) && !(node->flags & GGML_TENSOR_FLAG_OUTPUT);
        if (writes_state(caches, node) || (can_go && !used.count(node))) {
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
        for (const auto & value : op.kept) {
            res += value.rows->nb[1];
        }
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

void llama_state_trees::commit_windows(const std::vector<int32_t> & at, int64_t src, int64_t dst) const {
    const int64_t n = at.size();

    for (const auto & op : ops) {
        if (op.op != GGML_OP_SSM_CONV) {
            continue;
        }

        const auto row = [&](int64_t i) {
            return (float *) ((char *) op.cache->data + i*op.cache->nb[1] + op.offset);
        };

        const int64_t n_state = op.ne[0];
        const float * from    = row(src);
              float * to      = row(dst);

        for (int64_t i = 0; i < op.ne[1]; ++i) {
            for (int64_t j = 0; j < n_state; ++j) {
                // the last columns of the state and the path, one behind the other
                const int64_t k = j + n;
                to[i*n_state + j] = k < n_state ? from[i*n_state + k] :
                    ((const float *) ((const char *) op.kept[0].rows->data + at[k - n_state]*op.kept[0].rows->nb[1]))[i];
            }
        }
    }
}

void llama_state_trees::commit_states(llama_context * lctx, const std::vector<int32_t> & at, int64_t src, int64_t dst) {
    const int64_t n = at.size();

    const size_t n_nodes = 16*ops.size() + 8;

    ggml_init_params params = { 2*n_nodes*ggml_tensor_overhead() + ggml_graph_overhead_custom(n_nodes, false), nullptr, true };
    ggml_context_ptr ctx_ptr { ggml_init(params) };

    ggml_context * ctx = ctx_ptr.get();
    ggml_cgraph  * gf  = ggml_new_graph_custom(ctx, n_nodes, false);

    ggml_tensor * ids = ggml_new_tensor_1d(ctx, GGML_TYPE_I32, n);
    ggml_tensor * row = ggml_new_tensor_1d(ctx, GGML_TYPE_I32, 1);
    ggml_set_input(ids);
    ggml_set_input(row);

    ggml_tensor * any = nullptr;

    for (const auto & op : ops) {
        if (op.op == GGML_OP_SSM_CONV) {
            continue;
        }
        any = op.cache;

        std::vector<ggml_tensor *> in;
        for (const auto & value : op.kept) {
            in.push_back(ggml_reshape_4d(ctx, ggml_get_rows(ctx, value.rows, ids), value.ne[0], value.ne[1], n, 1));
        }

        ggml_tensor * res;
        size_t        n_out; // values before the state
        if (op.op == GGML_OP_SSM_SCAN) {
            ggml_tensor * states = view_states(ctx, op.cache, op.ne, op.offset, op.cache->ne[1]);
            ggml_tensor * dt = ggml_reshape_3d(ctx, in[1], in[1]->ne[0], n, 1);

            res   = ggml_ssm_scan(ctx, states, in[0], dt, op.decay, in[2], in[2], row, 1);
            n_out = ggml_nelements(in[0]);
        } else {
            ggml_tensor * state = view_states(ctx, op.cache, op.ne, src*op.cache->nb[1] + op.offset, 1);

            res   = ggml_gated_delta_net(ctx, in[0], in[0], in[1], in[2], in[3], state, 1);
            n_out = ggml_nelements(in[1]);
        }

        const int64_t n_state = op.ne[0]*op.ne[1]*op.ne[2];
        ggml_build_forward_expand(gf, ggml_cpy(ctx,
            ggml_view_1d(ctx, res,      n_state, n_out*sizeof(float)),
            ggml_view_1d(ctx, op.cache, n_state, dst*op.cache->nb[1] + op.offset)));
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

        commit_windows(at, src, dst);
        commit_states(lctx, at, src, dst);
    }

    release(seq_id, 0);
}
