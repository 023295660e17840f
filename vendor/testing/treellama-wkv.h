#pragma once

// RWKV's recurrent ops: one by itself, on the CPU

#include "llama.h"

#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

enum treellama_wkv_kind {
    TREELLAMA_WKV6 = 0, // inputs k, v, r, decay
    TREELLAMA_WKV7 = 1, // inputs r, w, k, v, a, b
    TREELLAMA_GLA  = 2, // inputs k, v, q, g
};

struct treellama_wkv_params {
    enum treellama_wkv_kind kind;

    int64_t n_embd;   // channels of a head
    int64_t n_head;
    int64_t n_tokens; // of all sequences, which have as many each
    int64_t n_states; // sequences; of a tree, states that its tokens may begin with
    int32_t n_threads;

    bool use_ref;     // ggml's reference code
};

//   inputs     [n_inputs][n_tokens][n_head][n_embd]
//   bonus      [n_head][n_embd]                            of WKV6
//   states     [n_states][n_head][n_embd][n_embd]
//   parents    [n_tokens]                                  NULL for texts; see ggml-cpu/states/tree.h
//   out        [n_tokens][n_head][n_embd]
//   states_out [n_states][n_head][n_embd][n_embd]          of texts
int32_t treellama_wkv(const struct treellama_wkv_params * params, const float * inputs, const float * bonus,
        const float * states, const int32_t * parents, float * out, float * states_out);

#ifdef __cplusplus
}
#endif
