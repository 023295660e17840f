#pragma once

// the order in which attention is told to read cells, as a graph gets it

#include <stdbool.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

// how many numbers a graph has room for
int32_t treellama_cell_order_size(int32_t n_groups, int32_t n_tokens, int32_t n_cells);

// write them to out, which has room for n: see ggml_flash_attn_ext_set_order(). 0, or TREELLAMA_EXCEPTION
//   groups [n_tokens]
//   pos    [n_cells]
//   seen   [n_groups][n_cells]
int32_t treellama_cell_order(
        int32_t n_groups, int32_t n_tokens, const int32_t * groups, int32_t n_cells, const int32_t * pos, const bool * seen,
        int32_t n, int32_t * out);

#ifdef __cplusplus
}
#endif
