#pragma once

#include "llama-batch.h"

#include <cstdint>
#include <iterator>
#include <map>
#include <vector>

// speculative trees over the cells of a KV cache
//
// a tree hangs on the end of a sequence's committed text. all its nodes carry the one seq_id of that sequence, and each
//   cache of the model knows which cell holds which node (llama_kv_cache_trees). a node sees the committed text, its
//   ancestors and itself. nodes stay pending until a path of them is committed, or all are discarded
//
// nodes are added by a batch: begin(), add() for each of its tokens that is one, llama_decode(), end()
//   what a tree may be is checked by add(), so that nothing needs to be checked where the cells are filled
// ref: https://github.com/ggml-org/llama.cpp/issues/3137

struct llama_kv_tree {
    llama_pos n_past = 0; // where the committed text ends

    uint32_t n_kept = 0;  // nodes before the batch that is under way

    std::vector<int32_t>   parents; // [n_nodes] -1 is the end of the committed text
    std::vector<llama_pos> pos;     // [n_nodes]

    uint32_t n_nodes() const {
        return parents.size();
    }
};

class llama_kv_trees {
public:
    static constexpr uint32_t n_nodes_max = 1024;

    // the tree of a sequence, nullptr if nothing is pending
    const llama_kv_tree * get(llama_seq_id seq_id) const {
        const auto it = trees.find(seq_id);
        return it == trees.end() ? nullptr : &it->second;
    }

    bool empty() const {
        return trees.empty();
    }

    // true while a batch adds nodes to this sequence
    bool grows(llama_seq_id seq_id) const {
        const auto * tree = get(seq_id);
        return tree && tree->n_kept < tree->n_nodes();
    }

    // true while a batch adds nodes to any sequence
    bool adds_nodes() const {
        return !nodes.empty();
    }

    // the node that token i of a part of the batch under way becomes, -1 if it is text
    int32_t batch_node(const llama_ubatch & ubatch, uint32_t i) const {
        return nodes.empty() ? -1 : nodes[ubatch.data->batch_idxs[i]];
    }

    // a batch that adds nodes begins
    void begin(int32_t n_tokens) {
        nodes.assign(n_tokens, -1);
    }

    // announce token i of a batch as the next node of a sequence
    // parent: -1, or a node of the same sequence that was announced before
    // return false, and announce nothing, if it cannot be one
    bool add(int32_t i, llama_seq_id seq_id, llama_pos pos, int32_t parent, llama_pos pos_max) {
        auto & tree = trees.emplace(seq_id, llama_kv_tree { pos_max + 1, 0, {}, {} }).first->second;

        const int32_t n_nodes = tree.n_nodes();
        if (n_nodes >= (int32_t) n_nodes_max || parent < -1 || parent >= n_nodes) {
            return false;
        }
        if (pos != (parent < 0 ? tree.n_past : tree.pos[parent] + 1)) {
            return false;
        }

        nodes[i] = n_nodes;

        tree.parents.push_back(parent);
        tree.pos    .push_back(pos);

        return true;
    }

    // the batch under way is done: its nodes are pending, or were never there
    void end(bool success) {
        for (auto it = trees.begin(); it != trees.end();) {
            auto & tree = it->second;
            if (!success) {
                tree.parents.resize(tree.n_kept);
                tree.pos    .resize(tree.n_kept);
            }
            tree.n_kept = tree.n_nodes();
            it = tree.n_kept == 0 ? trees.erase(it) : std::next(it);
        }
        nodes.clear();
    }

    // forget nodes of a sequence, so that those behind them move up. the parent of a node that is kept is kept
    void prune(llama_seq_id seq_id, const std::vector<bool> & keep) {
        auto & tree = trees.at(seq_id);

        std::vector<int32_t> moved(keep.size(), -1);

        uint32_t n = 0;
        for (uint32_t i = 0; i < keep.size(); ++i) {
            if (keep[i]) {
                const int32_t parent = tree.parents[i];

                tree.parents[n] = parent < 0 ? parent : moved[parent];
                tree.pos    [n] = tree.pos[i];

                moved[i] = n++;
            }
        }

        tree.parents.resize(n);
        tree.pos    .resize(n);
        tree.n_kept = n;
    }

    void erase(llama_seq_id seq_id) {
        trees.erase(seq_id);
    }

    void clear() {
        trees.clear();
    }

private:
    std::map<llama_seq_id, llama_kv_tree> trees;

    std::vector<int32_t> nodes; // [n_tokens] of the batch under way, empty between batches
};
