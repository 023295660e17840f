#pragma once

// attention: one op by itself, on the CPU

#include "llama.h"

#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

struct treellama_attention_params {
    int32_t n_embd_k; // channels of a head of Q and K
    int32_t n_embd_v; // channels of a head of V
    int32_t n_head;
    int32_t n_head_kv;
    int32_t n_tokens;
    int32_t n_kv;     // cells
    int32_t n_streams;
    int32_t n_order;  // length of a row of the order
    int32_t n_threads;

    // to which K and V are converted before
    enum ggml_type type_k;
    enum ggml_type type_v;

    float scale;
    float max_bias;   // of ALiBi; 0 for none
    float softcap;    // 0 for none

    bool  use_ref;    // ggml's reference code
};

// softmax(q k^T scale + mask) v for each head
//   q     [n_streams][n_tokens][n_head]   [n_embd_k]
//   k     [n_streams][n_kv]    [n_head_kv][n_embd_k]
//   v     [n_streams][n_kv]    [n_head_kv][n_embd_v]
//   mask  [n_streams][n_tokens][n_kv]                   rounded to F16
//   order [n_streams][n_order]                          see ggml_flash_attn_ext_set_order; NULL for stock's code
//   sinks [n_head]                                      may be NULL
//   out   [n_streams][n_tokens][n_head]   [n_embd_v]
int32_t treellama_attention(
        const struct treellama_attention_params * params,
        const float * q, const float * k, const float * v,
        const float * mask, const int32_t * order, const float * sinks, float * out);

// the same for one stream and with an order, in plain loops: one row after the other, over the cells that it sees
int32_t treellama_attention_plain(
        const struct treellama_attention_params * params,
        const float * q, const float * k, const float * v,
        const float * mask, const int32_t * order, const float * sinks, float * out);

#ifdef __cplusplus
}
#endif
