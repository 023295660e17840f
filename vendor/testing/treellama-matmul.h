#pragma once

// matrix products: one op by itself, on the CPU

#include "llama.h"

#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

// weights as a file holds them, and back: ggml_quantize_chunk without an importance matrix, or TREELLAMA_EXCEPTION
//   n_per_row: a multiple of the type's block
int32_t treellama_quantize_rows(
        enum ggml_type type, const float * values, int64_t n_rows, int64_t n_per_row, void * data);
int32_t treellama_dequantize_rows(
        enum ggml_type type, const void * data, int64_t n_rows, int64_t n_per_row, float * values);

struct treellama_matmul_params {
    int64_t n_in;
    int64_t n_out;
    int64_t n_experts; // matrices of weights; 1 without ids
    int64_t n_tokens;
    int64_t n_used;    // experts of a token
    int64_t n_inputs;  // rows of x that a token has; its experts take them in turn
    int32_t n_threads;

    enum ggml_type type; // of the weights

    bool packed;       // weights in the memory layout that a model's would have, else as in a file
    bool use_ref;      // ggml's reference code
};

// x w^T, each token with its own experts if there are ids (GGML_OP_MUL_MAT_ID), else with the one matrix (GGML_OP_MUL_MAT)
//   w    [n_experts][n_out][n_in]                         of the type
//   x    [n_tokens][n_inputs][n_in],   without ids [n_tokens][n_in]
//   ids  [n_tokens][n_used]                               NULL for one matrix; a token has no expert twice
//   out  [n_tokens][n_used]  [n_out],  without ids [n_tokens][n_out]
int32_t treellama_matmul(
        const struct treellama_matmul_params * params,
        const void * w, const float * x, const int32_t * ids, float * out);

#ifdef __cplusplus
}
#endif
