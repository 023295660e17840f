#include "llama-state-ops.h"

#include <algorithm>
#include <cstring>
#include <tuple>
#include <unordered_set>
#include <utility>

// where a state stands in its cache: the tensor, and the offset in its rows
static std::pair<ggml_tensor *, size_t> find_state(const llama_state_caches & caches, ggml_tensor * t) {
    size_t offset = 0;

    while (!llama_is_gathered(caches, t) && !caches.count(t)) {
        offset += t->view_offs;
        t = t->view_src ? t->view_src : t->op == GGML_OP_CONT ? t->src[0] : nullptr;
        if (!t) {
            return { nullptr, 0 };
        }
    }
    return { llama_root_of(llama_is_gathered(caches, t) ? t->src[0] : t), offset };
}

//
// kinds of ops
//

namespace {

// where an op has its sources, besides those that are weights
struct op_kind {
    int state;
    int parents; // where a tree has them

    std::vector<int> inputs; // what changes the state, with a column or slice for each token

    int query; // what reads it
};

}

static const op_kind & kind_of(ggml_op op) {
    static const op_kind window = { 0, 2, {}, -1 };
    static const op_kind scan   = { 0, 7, { 1, 2, 4 }, 5 };       // x, dt, B; C
    static const op_kind delta  = { 5, 6, { 1, 2, 3, 4 }, 0 };    // k, v, g, beta; q
    static const op_kind gla    = { 4, 5, { 0, 1, 3 }, 2 };       // k, v, g; q
    static const op_kind wkv6   = { 5, 6, { 0, 1, 4 }, 2 };       // k, v, decay; r
    static const op_kind wkv7   = { 6, 7, { 1, 2, 3, 4, 5 }, 0 }; // w, k, v, a, b; r

    switch (op) {
        case GGML_OP_SSM_CONV:
        case GGML_OP_CONCAT:            return window;
        case GGML_OP_SSM_SCAN:          return scan;
        case GGML_OP_GATED_LINEAR_ATTN: return gla;
        case GGML_OP_RWKV_WKV6:         return wkv6;
        case GGML_OP_RWKV_WKV7:         return wkv7;
        default:                        return delta;
    }
}

// Mamba's dt alone has its tokens in the second dimension
static bool is_dt(ggml_op op, int i_src) {
    return op == GGML_OP_SSM_SCAN && i_src == 2;
}

// RWKV's token shift: the state, and behind it all tokens but the last
static bool is_shift(const llama_state_caches & caches, const ggml_tensor * node) {
    if (node->op != GGML_OP_CONCAT || node->op_params[0] != 1 || !llama_is_gathered(caches, llama_root_of(node->src[0]))) {
        return false;
    }

    const ggml_tensor * before = node->src[1];
    const ggml_tensor * tokens = llama_root_of(before);

    return before->op == GGML_OP_VIEW && before->view_offs == 0 && node->ne[1] == tokens->ne[1] && node->ne[3] == 1 &&
        ggml_are_same_shape(node, tokens) && ggml_is_contiguous(tokens) && before->nb[2] == tokens->nb[2];
}

bool llama_is_state_op(const llama_state_caches & caches, const ggml_tensor * node) {
    switch (node->op) {
        case GGML_OP_SSM_CONV:
        case GGML_OP_SSM_SCAN:
        case GGML_OP_GATED_DELTA_NET:
        case GGML_OP_GATED_LINEAR_ATTN:
        case GGML_OP_RWKV_WKV6:
        case GGML_OP_RWKV_WKV7:
            return true;
        default:
            return is_shift(caches, node);
    }
}

// the state that an op begins with
static ggml_tensor * state_of(const ggml_tensor * node) {
    // the first part of the window
    return node->op == GGML_OP_SSM_CONV ? node->src[0]->src[0] : node->src[kind_of(node->op).state];
}

// what an op reads of its tokens
static std::vector<ggml_tensor *> inputs_of(ggml_context * ctx, const ggml_tensor * node) {
    switch (node->op) {
        case GGML_OP_SSM_CONV: return { ggml_transpose(ctx, node->src[0]->src[1]) };
        case GGML_OP_CONCAT:   return { llama_root_of(node->src[1]) };
        default:               break;
    }

    std::vector<ggml_tensor *> res;
    for (const int i : kind_of(node->op).inputs) {
        res.push_back(node->src[i]);
    }
    return res;
}

int64_t llama_state_op::n_tokens_of(const ggml_tensor * node) {
    switch (node->op) {
        case GGML_OP_SSM_CONV:
        case GGML_OP_CONCAT:   return node->ne[1];
        case GGML_OP_SSM_SCAN: return node->src[1]->ne[2];
        default:               return node->src[2]->ne[2];
    }
}

// a tree has no states of its own to show, and Mamba's decay must be there when a path is committed
static bool can_be_tree(const llama_state_caches & caches, const ggml_tensor * node) {
    switch (node->op) {
        case GGML_OP_SSM_SCAN:
            if (llama_root_of(node->src[3])->op != GGML_OP_NONE) {
                return false;
            }
            [[fallthrough]];
        case GGML_OP_GATED_DELTA_NET:
            if (node->op_params[0] != 1) {
                return false;
            }
            [[fallthrough]];
        default:
            return find_state(caches, state_of(node)).first;
    }
}

bool llama_are_states_known(const llama_state_caches & caches, ggml_cgraph * gf) {
    std::unordered_set<const ggml_tensor *> states;
    std::unordered_set<const ggml_tensor *> windows;

    bool res = false;

    for (int i = 0; i < ggml_graph_n_nodes(gf); ++i) {
        ggml_tensor * node = ggml_graph_node(gf, i);
        if (llama_is_view(node)) {
            continue;
        }

        const bool is_write = llama_writes_state(caches, node);
        const bool is_op    = llama_is_state_op(caches, node);
        if (is_write && node->op != GGML_OP_CPY && node->op != GGML_OP_FILL) {
            return false;
        }

        for (int j = 0; j < GGML_MAX_SRC; ++j) {
            ggml_tensor * src = node->src[j] ? llama_root_of(node->src[j]) : nullptr;

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
                } else if (!is_op || j != kind_of(node->op).state) {
                    return false;
                }
            } else if (windows.count(src) && (j != 0 || node->op != GGML_OP_SSM_CONV || node->src[0] != src)) {
                return false;
            }
        }

        if (is_op) {
            if ((node->op == GGML_OP_SSM_CONV && !windows.count(node->src[0])) || !can_be_tree(caches, node)) {
                return false;
            }
            res = true;
        }
    }

    return res;
}

//
// an op
//

llama_state_op::llama_state_op(const llama_state_caches & caches, ggml_context * ctx, ggml_tensor * node, int64_t n_slots) :
    op(node->op) {
    std::tie(cache, offset) = find_state(caches, state_of(node));

    std::copy_n(state_of(node)->ne, 4, ne);
    if (op == GGML_OP_CONCAT) {
        ne[1] = ne[0]; // a window of one column
        ne[0] = 1;
    }

    if (op == GGML_OP_SSM_SCAN) {
        decay = node->src[3];
    }
    if (op == GGML_OP_GATED_LINEAR_ATTN) {
        memcpy(&scale, node->op_params, sizeof(scale));
    }

    if (is_window()) {
        kept.push_back({ { ne[1], 1 }, nullptr });
    }
    for (const int i : kind_of(op).inputs) {
        const ggml_tensor * t = node->src[i];
        kept.push_back({ { t->ne[0], is_dt(op, i) ? 1 : t->ne[1] }, nullptr });
    }
    for (auto & input : kept) {
        input.rows = ggml_new_tensor_2d(ctx, GGML_TYPE_F32, input.ne[0]*input.ne[1], n_slots);
    }
}

bool llama_state_op::is_window() const {
    return op == GGML_OP_SSM_CONV || op == GGML_OP_CONCAT;
}

size_t llama_state_op::n_bytes_of_token() const {
    size_t res = 0;
    for (const auto & value : kept) {
        res += value.rows->nb[1];
    }
    return res;
}

ggml_tensor * llama_state_op::view_states(ggml_context * ctx, int64_t row, int64_t n_rows) const {
    return ggml_view_4d(ctx, cache, ne[0], ne[1], ne[2], n_rows,
            ne[0]*sizeof(float), ne[0]*ne[1]*sizeof(float), cache->nb[1], row*cache->nb[1] + offset);
}

// [n_values, n_tokens]
static ggml_tensor * by_token(ggml_context * ctx, ggml_tensor * t, int64_t n_tokens) {
    ggml_tensor * cur = ggml_is_contiguous(t) ? t : ggml_cont(ctx, t);
    return ggml_reshape_2d(ctx, cur, ggml_nelements(t)/n_tokens, n_tokens);
}

std::vector<ggml_tensor *> llama_state_op::keep(ggml_context * ctx, ggml_tensor * node, ggml_tensor * slots) const {
    const auto inputs = inputs_of(ctx, node);

    std::vector<ggml_tensor *> res;
    for (size_t i = 0; i < inputs.size(); ++i) {
        res.push_back(ggml_set_rows(ctx, kept[i].rows, by_token(ctx, inputs[i], n_tokens_of(node)), slots));
    }
    return res;
}

// a window's inputs are [n_values, n_slots], those of others [ne[0], ne[1], n_slots]
std::vector<ggml_tensor *> llama_state_op::read_kept(ggml_context * ctx, ggml_tensor * slots) const {
    std::vector<ggml_tensor *> res;
    for (const auto & input : kept) {
        ggml_tensor * rows = ggml_get_rows(ctx, input.rows, slots);
        res.push_back(is_window() ? rows : ggml_reshape_3d(ctx, rows, input.ne[0], input.ne[1], slots->ne[0]));
    }
    return res;
}

// let a node read the old nodes behind the tokens of the pass. A node's parent may be any of them; what an op makes of them
// stands behind what the graph looks at
void llama_state_op::append(ggml_context * ctx, ggml_tensor * node, ggml_tensor * old) const {
    const auto    in    = read_kept(ctx, old);
    const int64_t n_old = old->ne[0];

    const auto concat = [&](int i, ggml_tensor * more, int dim) {
        node->src[i] = ggml_concat(ctx, node->src[i], more, dim);
    };

    if (op == GGML_OP_SSM_CONV) {
        concat(0, ggml_cont(ctx, ggml_transpose(ctx, in[0])), 0);
        return;
    }
    if (op == GGML_OP_CONCAT) {
        concat(1, in[0], 1);
        return;
    }

    const auto & kind = kind_of(op);
    for (size_t i = 0; i < kind.inputs.size(); ++i) {
        if (is_dt(op, kind.inputs[i])) {
            concat(kind.inputs[i], ggml_reshape_2d(ctx, in[i], in[i]->ne[0], n_old), 1);
        } else {
            concat(kind.inputs[i], in[i], 2);
        }
    }
    // what is read for old nodes is not looked at: any values of that shape
    concat(kind.query, in[op == GGML_OP_SSM_SCAN ? 2 : 0], 2);

    // a result of other size; its views keep their place
    if (op == GGML_OP_SSM_SCAN) {
        node->ne[0] += n_old*in[0]->ne[0]*in[0]->ne[1];
    } else {
        node->ne[1] += n_old;
    }
    node->nb[1] = node->ne[0]*sizeof(float);
    node->nb[2] = node->nb[3] = node->ne[0]*node->ne[1]*sizeof(float);
}

void llama_state_op::make_tree(ggml_context * ctx, ggml_tensor * node, ggml_tensor * parents, ggml_tensor * old) const {
    if (op == GGML_OP_CONCAT) {
        node->src[1] = ggml_reshape_2d(ctx, llama_root_of(node->src[1]), node->ne[0], node->ne[1]);
    }
    if (old) {
        append(ctx, node, old);
    }

    node->src[kind_of(op).parents] = parents;

    if (is_window()) {
        node->src[3] = ggml_view_2d(ctx, cache, ne[0]*ne[1], cache->ne[1], cache->nb[1], offset);
    } else if (op != GGML_OP_SSM_SCAN) { // which reads all rows, by number
        node->src[kind_of(op).state] = view_states(ctx, 0, cache->ne[1]);
    }
}

//
// commit
//

void llama_state_op::commit_window(const std::vector<int32_t> & slots, int64_t src, int64_t dst) const {
    const auto row = [&](int64_t i) {
        return (float *) ((char *) cache->data + i*cache->nb[1] + offset);
    };
    const auto slot = [&](int64_t i) {
        return (const float *) ((const char *) kept[0].rows->data + slots[i]*kept[0].rows->nb[1]);
    };

    const int64_t n       = slots.size();
    const int64_t n_state = ne[0];

    for (int64_t i = 0; i < ne[1]; ++i) {
        for (int64_t j = 0; j < n_state; ++j) {
            // the last columns of the state and the path, one behind the other
            const int64_t k = j + n;
            row(dst)[i*n_state + j] = k < n_state ? row(src)[i*n_state + k] : slot(k - n_state)[i];
        }
    }
}

ggml_tensor * llama_state_op::commit_state(
        ggml_context * ctx, ggml_tensor * slots, ggml_tensor * row, int64_t src, int64_t dst) const {
    const auto in = read_kept(ctx, slots);

    ggml_tensor * state = view_states(ctx, src, 1);
    ggml_tensor * res;

    // where an op wants what its state does not need, it gets what has that shape
    switch (op) {
        case GGML_OP_SSM_SCAN:
            {
                ggml_tensor * dt = ggml_reshape_2d(ctx, in[1], in[1]->ne[0], slots->ne[0]);
                res = ggml_ssm_scan(ctx, view_states(ctx, 0, cache->ne[1]), in[0], dt, decay, in[2], in[2], row, 1);
            } break;
        case GGML_OP_GATED_LINEAR_ATTN:
            res = ggml_gated_linear_attn(ctx, in[0], in[1], in[0], in[2], state, scale);
            break;
        case GGML_OP_RWKV_WKV6:
            res = ggml_rwkv_wkv6(ctx, in[0], in[1], in[0], in[0], in[2], state);
            break;
        case GGML_OP_RWKV_WKV7:
            res = ggml_rwkv_wkv7(ctx, in[1], in[0], in[1], in[2], in[3], in[4], state);
            break;
        default:
            res = ggml_gated_delta_net(ctx, in[0], in[0], in[1], in[2], in[3], state, 1);
            break;
    }

    // the state stands behind the outputs, which have the size of x or v
    const size_t  n_out   = ggml_nelements(in[op == GGML_OP_SSM_SCAN ? 0 : 1]);
    const int64_t n_state = ne[0]*ne[1]*ne[2];
    return ggml_cpy(ctx,
        ggml_view_1d(ctx, res,   n_state, n_out*sizeof(float)),
        ggml_view_1d(ctx, cache, n_state, dst*cache->nb[1] + offset));
}
