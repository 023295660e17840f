#pragma once

// RWKV's token shift over a tree: what GGML_OP_CONCAT of a state and the tokens before is for a text
//
// GGML_OP_CONCAT with two sources more: the tokens are src[1], [n_embd, n_tokens], their parents (states/tree.h) src[2],
//   and all states src[3], [n_embd, n_rows]. A row of dst is the token that its parent is, or the state that it begins with

struct ggml_compute_params;
struct ggml_tensor;

bool ggml_cpu_shift_supported(const ggml_tensor * op);

void ggml_compute_forward_shift(const ggml_compute_params * params, ggml_tensor * op);
