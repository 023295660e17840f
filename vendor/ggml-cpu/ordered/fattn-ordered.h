#pragma once

#include "ggml.h"

#include <cstddef>

struct ggml_compute_params;

// flash attention that sums over cells in the order of their positions, see ggml_flash_attn_ext_set_order()
//
// what a query gets depends on nothing but its own cells: not on the queries beside it, on cells that are masked for it,
//   on where cells are stored, or on the number of threads. K and V are read and converted once for a tile of queries of
//   all heads that share them, so that a few queries cost little more than one

// false if dst has no order, or this build or these tensors must take the other path
bool ggml_fattn_ordered_supported(const struct ggml_tensor * dst);

size_t ggml_fattn_ordered_work_size(const struct ggml_tensor * dst, int n_threads);

void ggml_compute_forward_flash_attn_ext_ordered(const struct ggml_compute_params * params, struct ggml_tensor * dst);
