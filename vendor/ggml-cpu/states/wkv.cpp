#include "wkv.h"

#include "lanes.h"
#include "tree.h"

#include "ggml-cpu-impl.h"
#include "ggml-impl.h"

#include <cstring>

namespace {

// an op over tokens, whose inputs are [S, H, T]
struct wkv_op {
    const ggml_tensor * dst;
    const ggml_tensor * states;
    const ggml_tensor * parents; // nullptr for a text

    int64_t S; // channels of a head
    int64_t H;
    int64_t T;

    explicit wkv_op(const ggml_tensor * dst) : dst(dst) {
        const int i_states = dst->op == GGML_OP_RWKV_WKV7 ? 6 : dst->op == GGML_OP_RWKV_WKV6 ? 5 : 4;

        states  = dst->src[i_states];
        parents = dst->src[i_states + 1];

        S = dst->src[1]->ne[0];
        H = dst->src[1]->ne[1];
        T = dst->src[1]->ne[2];
    }

    // an input of a token's head
    const float * in(int i, int64_t token, int64_t head) const {
        return (const float *) dst->src[i]->data + (token*H + head)*S;
    }

    float * out(int64_t token, int64_t head) const {
        return (float *) dst->data + (token*H + head)*S;
    }
};

// the state of a head goes on over a token, and the token's output is read from it. N: channels of a head, 0 for any
using wkv_step = void (*)(const wkv_op & op, int64_t token, int64_t head, float * state, float * out);

template <int64_t N>
void step_wkv6(const wkv_op & op, int64_t token, int64_t head, float * state, float * out) {
    const int64_t S = N > 0 ? N : op.S;

    const float * k     = op.in(0, token, head);
    const float * v     = op.in(1, token, head);
    const float * r     = op.in(2, token, head);
    const float * bonus = op.in(3, 0,     head);
    const float * decay = op.in(4, token, head);

    for_lanes(S, [&](auto lane, auto n, int64_t j) {
        using L = decltype(lane);
        typename L::vec x[n], y[n];

        LANES_UNROLL
        for (int q = 0; q < n; ++q) {
            x[q] = L::load(v + j + q*L::n);
            y[q] = L::set(0.0f);
        }
        for (int64_t i = 0; i < S; ++i) {
            LANES_UNROLL
            for (int q = 0; q < n; ++q) {
                float * s = state + i*S + j + q*L::n;

                const auto kv   = L::mul(x[q], L::set(k[i]));
                const auto prev = L::load(s);

                y[q] = L::fma(y[q], L::fma(prev, kv, L::set(bonus[i])), L::set(r[i]));
                L::store(s, L::fma(kv, prev, L::set(decay[i])));
            }
        }
        LANES_UNROLL
        for (int q = 0; q < n; ++q) {
            L::store(out + j + q*L::n, y[q]);
        }
    });
}

template <int64_t N>
void step_wkv7(const wkv_op & op, int64_t token, int64_t head, float * state, float * out) {
    const int64_t S = N > 0 ? N : op.S;

    const float * r = op.in(0, token, head);
    const float * w = op.in(1, token, head);
    const float * k = op.in(2, token, head);
    const float * v = op.in(3, token, head);
    const float * a = op.in(4, token, head);
    const float * b = op.in(5, token, head);

    for (int64_t i = 0; i < S; ++i) {
        float * s = state + i*S;

        lane_sum sum_a;
        for_lanes(S, [&](auto lane, auto n, int64_t j) {
            using L = decltype(lane);
            LANES_UNROLL
            for (int q = 0; q < n; ++q) {
                sum_a.add(lane, q, L::load(a + j + q*L::n), L::load(s + j + q*L::n));
            }
        });
        const float sa = sum_a.total();

        lane_sum sum_r;
        for_lanes(S, [&](auto lane, auto n, int64_t j0) {
            using L = decltype(lane);
            LANES_UNROLL
            for (int q = 0; q < n; ++q) {
                const int64_t j = j0 + q*L::n;

                const auto kv   = L::mul(L::set(v[i]), L::load(k + j));
                const auto next = L::fma(L::fma(kv, L::load(s + j), L::load(w + j)), L::set(sa), L::load(b + j));

                sum_r.add(lane, q, next, L::load(r + j));
                L::store(s + j, next);
            }
        });
        out[i] = sum_r.total();
    }
}

template <int64_t N>
void step_gla(const wkv_op & op, int64_t token, int64_t head, float * state, float * out) {
    const int64_t S = N > 0 ? N : op.S;

    const float * k     = op.in(0, token, head);
    const float * v     = op.in(1, token, head);
    const float * q_in  = op.in(2, token, head);
    const float * decay = op.in(3, token, head);

    const float scale = ggml_get_op_params_f32(op.dst, 0);

    for_lanes(S, [&](auto lane, auto n, int64_t j) {
        using L = decltype(lane);
        typename L::vec x[n], y[n];

        LANES_UNROLL
        for (int q = 0; q < n; ++q) {
            x[q] = L::load(v + j + q*L::n);
            y[q] = L::set(0.0f);
        }
        for (int64_t i = 0; i < S; ++i) {
            LANES_UNROLL
            for (int q = 0; q < n; ++q) {
                float * s = state + i*S + j + q*L::n;

                const auto next = L::fma(L::mul(x[q], L::set(k[i])), L::load(s), L::set(decay[i]));

                y[q] = L::fma(y[q], next, L::set(q_in[i]*scale));
                L::store(s, next);
            }
        }
        LANES_UNROLL
        for (int q = 0; q < n; ++q) {
            L::store(out + j + q*L::n, y[q]);
        }
    });
}

template <int64_t N>
wkv_step step_of(ggml_op op) {
    switch (op) {
        case GGML_OP_RWKV_WKV6: return step_wkv6<N>;
        case GGML_OP_RWKV_WKV7: return step_wkv7<N>;
        default:                return step_gla<N>;
    }
}

// the heads of a thread
struct head_range {
    int64_t begin;
    int64_t end;
};

// one run of tokens a state. what each leaves stands behind the outputs
void visit_texts(const wkv_op & op, wkv_step step, head_range heads) {
    const int64_t n_seqs   = op.states->ne[1];
    const int64_t n_tokens = op.T/n_seqs;
    const int64_t n_state  = op.S*op.S;

    for (int64_t seq = 0; seq < n_seqs; ++seq) {
        const float * from = (const float *) op.states->data + seq*op.H*n_state;
        float       * to   = op.out(op.T, 0)                 + seq*op.H*n_state;

        memcpy(to + heads.begin*n_state, from + heads.begin*n_state, (heads.end - heads.begin)*n_state*sizeof(float));

        // a token's heads are neighbours in memory
        for (int64_t t = seq*n_tokens; t < (seq + 1)*n_tokens; ++t) {
            for (int64_t head = heads.begin; head < heads.end; ++head) {
                step(op, t, head, to + head*n_state, op.out(t, head));
            }
        }
    }
}

void visit_tree(const wkv_op & op, wkv_step step, head_range heads, const ggml_state_tree & tree) {
    for (int64_t head = heads.begin; head < heads.end; ++head) {
        const float * states = (const float *) op.states->data + head*op.S*op.S;

        for (int64_t i = 0; i < op.T; ++i) {
            const int32_t t = tree.token(i);
            step(op, t, head, tree.begin(i, states, op.states->nb[3]/sizeof(float)), op.out(t, head));
        }
    }
}

} // namespace

bool ggml_cpu_wkv_supported(const ggml_tensor * op) {
    return op->op == GGML_OP_RWKV_WKV6 || op->op == GGML_OP_RWKV_WKV7 || op->op == GGML_OP_GATED_LINEAR_ATTN;
}

bool ggml_cpu_wkv_is_tree(const ggml_tensor * op) {
    return wkv_op(op).parents;
}

void ggml_compute_forward_wkv(const ggml_compute_params * params, ggml_tensor * dst) {
    GGML_ASSERT(dst->src[0]->type == GGML_TYPE_F32);

    const wkv_op   op(dst);
    const wkv_step step = op.S == 64 ? step_of<64>(dst->op) : step_of<0>(dst->op);

    const head_range heads = { op.H*params->ith/params->nth, op.H*(params->ith + 1)/params->nth };

    const ggml_state_tree tree(op.parents, op.S*op.S);
    if (tree) {
        visit_tree(op, step, heads, tree);
    } else {
        visit_texts(op, step, heads);
    }
}
