/* treellama-order.h: the order in which attention is told to read cells, as a graph gets it */

int32_t treellama_cell_order_size(int32_t n_groups, int32_t n_tokens, int32_t n_cells);
int32_t treellama_cell_order(
    int32_t n_groups, int32_t n_tokens, const int32_t * groups, int32_t n_cells, const int32_t * pos, const bool * seen,
    int32_t n, int32_t * out);
