#pragma once

// trees over recurrent states: a token begins with the state behind its parent, not with that behind the token before it
//
// GGML_OP_SSM_CONV, GGML_OP_SSM_SCAN and GGML_OP_GATED_DELTA_NET take an I32 tensor with a value for each token:
//   p >= 0   its parent, a token before it
//   -1       it begins with no state
//   p <= -2  it begins with row -2 - p of the tensor of states
// The arithmetic of a token is that of a text, so a node has the bits of its path. No state is written: who wants one
// runs the op over a path.

#include "ggml.h"

#include <algorithm>
#include <cstdint>
#include <cstring>
#include <vector>

// the order in which the tokens of a tree are visited: depth first, so that a state is kept for each level alone
class ggml_state_tree {
public:
    // parents can be nullptr: no tree
    ggml_state_tree(const ggml_tensor * parents, int64_t n_state) : n_state(n_state) {
        if (!parents) {
            return;
        }

        const int32_t * parent = (const int32_t *) parents->data;
        const int32_t   n      = (int32_t) parents->ne[0];

        // children by parent, in reverse: the last is on top of the stack
        std::vector<int32_t> child(n, -1);
        std::vector<int32_t> next (n, -1);
        std::vector<item>    todo;

        for (int32_t t = 0; t < n; ++t) {
            if (parent[t] >= 0) {
                next[t] = child[parent[t]];
                child[parent[t]] = t;
            }
        }
        for (int32_t t = n - 1; t >= 0; --t) {
            if (parent[t] < 0) {
                todo.push_back({ t, parent[t], 0 });
            }
        }

        items.reserve(n);
        while (!todo.empty()) {
            const item cur = todo.back();
            todo.pop_back();
            items.push_back(cur);

            n_buffers = cur.to >= n_buffers ? cur.to + 1 : n_buffers;

            // one child goes on in its parent's buffer, after all others have copied from it
            for (int32_t c = child[cur.token], first = true; c >= 0; c = next[c], first = false) {
                todo.push_back({ c, cur.to, first ? cur.to : cur.to + 1 });
            }
        }

        static thread_local std::vector<float> memory;
        memory.resize(std::max<size_t>(memory.size(), (n_buffers + 1)*n_state));
        buffers = memory.data();
    }

    explicit operator bool() const {
        return buffers;
    }

    int32_t token(int64_t i) const {
        return items[i].token;
    }

    // the state that the i-th token visited begins with; states: rows that are row_size floats apart
    const float * from(int64_t i, const float * states, int64_t row_size) const {
        const int32_t at = items[i].from;
        if (at >= 0) {
            return buffers + at*n_state;
        }
        if (at <= -2) {
            return states + (-2 - at)*row_size;
        }
        float * zeros = buffers + n_buffers*n_state;
        memset(zeros, 0, n_state*sizeof(float));
        return zeros;
    }

    // where it leaves its own
    float * to(int64_t i) const {
        return buffers + items[i].to*n_state;
    }

    // its own begins as a copy
    float * begin(int64_t i, const float * states, int64_t row_size) const {
        const float * src = from(i, states, row_size);
        float       * dst = to(i);
        if (src != dst) {
            memcpy(dst, src, n_state*sizeof(float));
        }
        return dst;
    }

private:
    struct item {
        int32_t token;
        int32_t from; // a buffer, or a parent < 0
        int32_t to;   // a buffer
    };

    const int64_t n_state;

    std::vector<item> items;

    int32_t n_buffers = 0;
    float * buffers   = nullptr;
};

// the window of a token: its own column and those of its ancestors, then those of the text's state
//
// conv_x: [n_conv - 1 + n_tokens, n_channels], column n_conv - 1 + t is token t's. states: [(n_conv - 1)*n_channels, n_rows]
// dst: [n_conv, n_channels] for the channels from i0 to i1
static inline void ggml_state_tree_window(
        const ggml_tensor * conv_x, const ggml_tensor * parents, const ggml_tensor * states, int n_conv, int64_t t,
        int64_t i0, int64_t i1, float * dst) {
    const int32_t * parent = (const int32_t *) parents->data;

    int32_t at = (int32_t) t;
    for (int j = n_conv - 1, n_left = n_conv - 1; j >= 0; --j) {
        const float * src    = nullptr;
        size_t        stride = 0;

        if (at >= 0) {
            src    = (const float *) conv_x->data + n_conv - 1 + at;
            stride = conv_x->nb[1]/sizeof(float);
            at     = parent[at];
        } else {
            n_left -= 1;
            if (at <= -2) {
                src    = (const float *) ((const char *) states->data + (-2 - at)*states->nb[1]) + n_left;
                stride = n_conv - 1;
            }
        }

        for (int64_t i = i0; i < i1; ++i) {
            dst[(i - i0)*n_conv + j] = src ? src[i*stride] : 0.0f;
        }
    }
}

// SSM_CONV of a tree, for the channels from i0 to i1: a block of rows of conv_x stays in the first cache for all tokens
static inline void ggml_state_tree_conv(ggml_tensor * dst, int64_t i0, int64_t i1) {
    const ggml_tensor * conv_x = dst->src[0];
    const ggml_tensor * weight = dst->src[1];

    const int     n_conv  = (int) weight->ne[0];
    const int64_t n_block = 32;

    std::vector<float> window(n_block*n_conv);

    for (int64_t b0 = i0; b0 < i1; b0 += n_block) {
        const int64_t b1 = std::min(b0 + n_block, i1);

        for (int64_t t = 0; t < dst->ne[1]; ++t) {
            ggml_state_tree_window(conv_x, dst->src[2], dst->src[3], n_conv, t, b0, b1, window.data());

            const float * s = window.data();
            const float * c = (const float *) ((const char *) weight->data + b0*weight->nb[1]);
            float       * x = (float *) ((char *) dst->data + b0*dst->nb[0] + t*dst->nb[1]);

            for (int64_t i = 0; i < b1 - b0; ++i) {
                // the sum of stock's loop over a text
                float sumf = 0.0f;
                for (int j = 0; j < n_conv; ++j) {
                    sumf += s[j + i*n_conv] * c[j + i*n_conv];
                }
                x[i] = sumf;
            }
        }
    }
}
