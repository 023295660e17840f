#pragma once

#include "llama-graph.h"
#include "llama-memory-recurrent.h"
#include "llama-state-trees.h"

#include <map>
#include <utility>
#include <vector>

// what the ops of a pass over nodes want to know
class llm_graph_input_state_tree : public llm_graph_input_i {
public:
    llm_graph_input_state_tree(llama_state_trees & trees, const llama_memory_recurrent & mem, ggml_context * ctx, int64_t n_tokens) :
        trees(trees), mem(mem) {
        const int64_t n_old = trees.old_nodes().size();

        parents = ggml_new_tensor_1d(ctx, GGML_TYPE_I32, n_tokens + n_old);
        slots   = ggml_new_tensor_1d(ctx, GGML_TYPE_I64, n_tokens);

        ggml_set_name(parents, "state_tree_parents");
        ggml_set_name(slots,   "state_tree_slots");

        if (n_old > 0) {
            old = ggml_new_tensor_1d(ctx, GGML_TYPE_I32, n_old);
            ggml_set_name(old, "state_tree_old");
            ggml_set_input(old);
        }

        ggml_set_input(parents);
        ggml_set_input(slots);
    }

    void set_input(const llama_ubatch * ubatch) override {
        auto * parent = (int32_t *) parents->data;
        auto * slot   = (int64_t *) slots->data;

        // the nodes of this pass, and behind them those that they may hang on
        std::vector<std::pair<llama_seq_id, int32_t>> nodes;
        for (uint32_t i = 0; i < ubatch->n_tokens; ++i) {
            nodes.push_back({ ubatch->seq_id[i][0], trees.trees->batch_node(*ubatch, i) });
        }
        const auto old_nodes = trees.old_nodes();
        nodes.insert(nodes.end(), old_nodes.begin(), old_nodes.end());

        std::map<std::pair<llama_seq_id, int32_t>, int32_t> place;
        for (size_t i = 0; i < nodes.size(); ++i) {
            place[nodes[i]] = i;
        }

        for (size_t i = 0; i < nodes.size(); ++i) {
            const auto [seq_id, node] = nodes[i];
            const int32_t p = trees.trees->get(seq_id)->parents[node];

            parent[i] = p < 0 ? row_of(seq_id) : place.at({ seq_id, p });

            if (i < ubatch->n_tokens) {
                slot[i] = trees.slot_of(seq_id, node);
            } else {
                ((int32_t *) old->data)[i - ubatch->n_tokens] = trees.slot_of(seq_id, node);
            }
        }
    }

    bool can_reuse(const llm_graph_params & params) override {
        const int64_t n_old = trees.old_nodes().size();

        return slots->ne[0] == params.ubatch.n_tokens && (old ? old->ne[0] : 0) == n_old;
    }

    ggml_tensor * parents;       // I32 [n_tokens + n_old], see ggml-cpu/states/tree.h
    ggml_tensor * slots;         // I64 [n_tokens]
    ggml_tensor * old = nullptr; // I32 [n_old] slots of nodes that were there before; nullptr if there are none

private:
    int32_t row_of(llama_seq_id seq_id) const {
        const int32_t tail = mem.cells[seq_id].tail;
        const int32_t row  = tail < 0 ? -1 : mem.cells[tail].src;

        return row < 0 ? -1 : -2 - row;
    }

    llama_state_trees & trees;

    const llama_memory_recurrent & mem;
};
