#pragma once

// GGML_OP_RWKV_WKV6, GGML_OP_RWKV_WKV7 and GGML_OP_GATED_LINEAR_ATTN, over texts and over trees
//
// a tree's parents (states/tree.h) are the source behind the states, which are then all rows of a cache. A state is changed
//   in its place by the same loops in both cases, one token after the other, so a node has the bits of its path. Heads have
//   any size (stock's loop for WKV7 writes behind the states if it is no multiple of a vector step)

struct ggml_compute_params;
struct ggml_tensor;

bool ggml_cpu_wkv_supported(const ggml_tensor * op);

bool ggml_cpu_wkv_is_tree(const ggml_tensor * op);

void ggml_compute_forward_wkv(const ggml_compute_params * params, ggml_tensor * op);
