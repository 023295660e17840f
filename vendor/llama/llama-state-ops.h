#pragma once

#include "llama-state-graph.h"

#include "ggml.h"

#include <cstddef>
#include <cstdint>
#include <vector>

struct ggml_cgraph;

// the ops of a graph that read a recurrent state: what they read of a token, how they become ops over a tree
//   (ggml-cpu/states/tree.h), and how a state goes on over a path of nodes

bool llama_is_state_op(const llama_state_caches & caches, const ggml_tensor * node);

// whether all ops that read states are known, and nothing else is made of the states
bool llama_are_states_known(const llama_state_caches & caches, ggml_cgraph * gf);

// an op with a state
class llama_state_op {
public:
    // ctx: for the rows that are kept, n_slots of each input
    llama_state_op(const llama_state_caches & caches, ggml_context * ctx, ggml_tensor * node, int64_t n_slots);

    static constexpr size_t n_kept_max = 8;

    static int64_t n_tokens_of(const ggml_tensor * node);

    // a state that is the last columns of what is read
    bool is_window() const;

    // what is kept of a token
    size_t n_bytes_of_token() const;

    //
    // a pass over nodes
    //

    // writes what the op reads of its tokens to their slots
    std::vector<ggml_tensor *> keep(ggml_context * ctx, ggml_tensor * node, ggml_tensor * slots) const;

    // parents: of the tokens, and behind them of the nodes that were there before. old: the slots of these; nullptr if there
    //   are none
    void make_tree(ggml_context * ctx, ggml_tensor * node, ggml_tensor * parents, ggml_tensor * old) const;

    //
    // commit: the state in row src of the cache goes on over slots, into row dst
    //

    void commit_window(const std::vector<int32_t> & slots, int64_t src, int64_t dst) const;

    // the same for other states, as a graph. row: I32 [1], src
    ggml_tensor * commit_state(ggml_context * ctx, ggml_tensor * slots, ggml_tensor * row, int64_t src, int64_t dst) const;

    // tensors that commit_state() makes, at most
    static constexpr size_t n_commit_max = 32;

    ggml_tensor * cache; // [n_embd, n_rows]

private:
    // an input: ne[0]*ne[1] values of each token
    struct kept_input {
        int64_t ne[2];

        ggml_tensor * rows; // [n_values, n_slots]
    };

    // the state of n_rows rows of the cache, from a row on
    ggml_tensor * view_states(ggml_context * ctx, int64_t row, int64_t n_rows) const;

    std::vector<ggml_tensor *> read_kept(ggml_context * ctx, ggml_tensor * slots) const;

    void append(ggml_context * ctx, ggml_tensor * node, ggml_tensor * old) const;

    ggml_op op;
    size_t  offset; // of the state in a row, in bytes
    int64_t ne[4];  // of the state

    ggml_tensor * decay = nullptr; // of SSM_SCAN, a weight
    float         scale = 0.0f;    // of GATED_LINEAR_ATTN

    std::vector<kept_input> kept;
};
