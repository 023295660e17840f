#include "treellama-order.h"

#include "treellama-impl.h"

#include "llama-kq-plan.h"

#include <map>

int32_t treellama_cell_order_size(int32_t n_groups, int32_t n_tokens, int32_t n_cells) {
    return (int32_t) llama_kq_plan::size_max(n_groups, n_tokens, n_cells);
}

int32_t treellama_cell_order(
        int32_t n_groups, int32_t n_tokens, const int32_t * groups, int32_t n_cells, const int32_t * pos, const bool * seen,
        int32_t n, int32_t * out) {
    return treellama_guard((int32_t) TREELLAMA_EXCEPTION, [&] {
        std::map<std::vector<int32_t>, llama_kq_cells> lists;
        for (int32_t j = 0; j < n_cells; ++j) {
            std::vector<int32_t> those;
            for (int32_t g = 0; g < n_groups; ++g) {
                if (seen[(int64_t) g*n_cells + j]) {
                    those.push_back(g);
                }
            }
            if (those.empty()) {
                continue;
            }

            auto & list = lists[those];
            list.groups = those;
            list.cells.push_back(j);
            list.pos  .push_back(pos[j]);
        }

        std::vector<llama_kq_cells> all;
        for (auto & list : lists) {
            all.push_back(std::move(list.second));
        }
        llama_kq_plan(n_groups, { groups, groups + n_tokens }, std::move(all)).write(out, n);
        return 0;
    });
}
