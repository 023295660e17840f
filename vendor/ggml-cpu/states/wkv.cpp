#include "wkv.h"

#include "tree.h"

#include "ggml-cpu-impl.h"
#include "ggml-impl.h"
#include "vec.h"

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

// the state of a head goes on over a token, and the token's output is read from it
using wkv_step = void (*)(const wkv_op & op, int64_t token, int64_t head, float * state, float * out);

void step_wkv6(const wkv_op & op, int64_t token, int64_t head, float * state, float * out) {
    const float * k     = op.in(0, token, head);
    const float * v     = op.in(1, token, head);
    const float * r     = op.in(2, token, head);
    const float * bonus = op.in(3, 0,     head);
    const float * decay = op.in(4, token, head);

    memset(out, 0, op.S*sizeof(float));
    for (int64_t i = 0; i < op.S; ++i) {
        float       * GGML_RESTRICT s = state + i*op.S;
        float       * GGML_RESTRICT y = out;
        const float * GGML_RESTRICT x = v;

        const float ki = k[i], ri = r[i], bi = bonus[i], di = decay[i];
        for (int64_t j = 0; j < op.S; ++j) {
            const float kv = x[j]*ki;
            y[j] += (s[j] + kv*bi)*ri;
            s[j]  = s[j]*di + kv;
        }
    }
}

void step_wkv7(const wkv_op & op, int64_t token, int64_t head, float * state, float * out) {
    const float * GGML_RESTRICT r = op.in(0, token, head);
    const float * GGML_RESTRICT w = op.in(1, token, head);
    const float * GGML_RESTRICT k = op.in(2, token, head);
    const float * GGML_RESTRICT v = op.in(3, token, head);
    const float * GGML_RESTRICT a = op.in(4, token, head);
    const float * GGML_RESTRICT b = op.in(5, token, head);

    for (int64_t i = 0; i < op.S; ++i) {
        float * GGML_RESTRICT s = state + i*op.S;

        float sa;
        ggml_vec_dot_f32((int) op.S, &sa, 0, a, 0, s, 0, 1);

        for (int64_t j = 0; j < op.S; ++j) {
            s[j] = s[j]*w[j] + v[i]*k[j] + sa*b[j];
        }
        ggml_vec_dot_f32((int) op.S, out + i, 0, s, 0, r, 0, 1);
    }
}

void step_gla(const wkv_op & op, int64_t token, int64_t head, float * state, float * out) {
    const float * k     = op.in(0, token, head);
    const float * v     = op.in(1, token, head);
    const float * q     = op.in(2, token, head);
    const float * decay = op.in(3, token, head);

    const float scale = ggml_get_op_params_f32(op.dst, 0);

    memset(out, 0, op.S*sizeof(float));
    for (int64_t i = 0; i < op.S; ++i) {
        float       * GGML_RESTRICT s = state + i*op.S;
        float       * GGML_RESTRICT y = out;
        const float * GGML_RESTRICT x = v;

        const float ki = k[i], qi = q[i]*scale, di = decay[i];
        for (int64_t j = 0; j < op.S; ++j) {
            s[j]  = s[j]*di + x[j]*ki;
            y[j] += s[j]*qi;
        }
    }
}

wkv_step step_of(const ggml_tensor * op) {
    switch (op->op) {
        case GGML_OP_RWKV_WKV6: return step_wkv6;
        case GGML_OP_RWKV_WKV7: return step_wkv7;
        default:                return step_gla;
    }
}

// one run of tokens a state. what each leaves stands behind the outputs
void visit_texts(const wkv_op & op, wkv_step step, int64_t head) {
    const int64_t n_seqs  = op.states->ne[1];
    const int64_t n_state = op.S*op.S;

    for (int64_t seq = 0; seq < n_seqs; ++seq) {
        float * state = op.out(op.T, 0) + (seq*op.H + head)*n_state;

        memcpy(state, (const float *) op.states->data + (seq*op.H + head)*n_state, n_state*sizeof(float));
        for (int64_t t = seq*(op.T/n_seqs); t < (seq + 1)*(op.T/n_seqs); ++t) {
            step(op, t, head, state, op.out(t, head));
        }
    }
}

void visit_tree(const wkv_op & op, wkv_step step, int64_t head, const ggml_state_tree & tree) {
    const float * states = (const float *) op.states->data + head*op.S*op.S;

    for (int64_t i = 0; i < op.T; ++i) {
        const int32_t t = tree.token(i);
        step(op, t, head, tree.begin(i, states, op.states->nb[3]/sizeof(float)), op.out(t, head));
    }
}

} // namespace

bool ggml_cpu_wkv_supported(const ggml_tensor * op) {
    return op->op == GGML_OP_RWKV_WKV6 || op->op == GGML_OP_RWKV_WKV7 || op->op == GGML_OP_GATED_LINEAR_ATTN;
}

void ggml_compute_forward_wkv(const ggml_compute_params * params, ggml_tensor * dst) {
    GGML_ASSERT(dst->src[0]->type == GGML_TYPE_F32);

    const wkv_op   op(dst);
    const wkv_step step = step_of(dst);

    const ggml_state_tree tree(op.parents, op.S*op.S);

    for (int64_t head = op.H*params->ith/params->nth; head < op.H*(params->ith + 1)/params->nth; ++head) {
        if (tree) {
            visit_tree(op, step, head, tree);
        } else {
            visit_texts(op, step, head);
        }
    }
}
