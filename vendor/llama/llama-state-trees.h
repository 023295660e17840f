#pragma once

#include "llama-batch.h"
#include "llama-kv-tree.h"
#include "llama-memory.h"
#include "llama-state-ops.h"

#include "ggml-alloc.h"
#include "ggml-cpp.h"

#include <cstdint>
#include <map>
#include <memory>
#include <set>
#include <utility>
#include <vector>

struct ggml_cgraph;
struct ggml_tensor;
struct llama_context;

class  llm_graph_result;
struct llama_ubatch;

class llama_memory_recurrent;

// the recurrent states of a memory; nullptr if it has none, or an indexer besides. mem can be nullptr
llama_memory_recurrent * llama_find_recurrent(const llama_memory_i * mem);

// the speculative trees of a memory, in its KV cache or in its recurrent states; nullptr where nodes would not know their past
llama_kv_trees * llama_find_trees(const llama_memory_i * mem);

// the speculative trees of a memory with recurrent states
//
// a pass over nodes leaves the states of the texts alone: its ops visit the nodes depth first, each beginning with its
//   parent's state (ggml-cpu/states/tree.h), and write none. What they read of a node is kept in a slot, far less than a
//   state is; to commit a path, the same ops run over its slots, from the state of the text: same order, same bits
//
// the graph of a pass is made as for a text, and rewritten. that takes ops that are known: is_supported() looks at all
//   that read states
class llama_state_trees {
public:
    // shared with the KV cache of a hybrid model
    std::shared_ptr<llama_kv_trees> trees = std::make_shared<llama_kv_trees>();

    // once, with a graph of the model's: whether nodes can begin with their parents' states
    void init(const llama_memory_recurrent & mem, ggml_cgraph * gf, uint32_t n_slots_max);

    bool is_supported() const {
        return n_slots > 0;
    }

    // what is kept of a node, once there was one
    size_t n_bytes_of_node() const;

    // nodes that may be added
    uint32_t n_free() const {
        return free_slots.size();
    }

    //
    // called by the memory
    //

    void clear();

    // true while a batch adds nodes
    bool adds_nodes() const {
        return is_supported() && trees->adds_nodes();
    }

    // the next part of a batch of nodes, as one run of tokens
    static llama_ubatch split(llama_batch_allocr & balloc, uint32_t n_ubatch);

    // instead of finding cells: nodes have none
    void place(llama_memory_recurrent & mem) const;

    //
    // called by the context
    //

    // the graph of a pass over nodes, made as for a text
    static void rewrite(const llama_memory_i * mem, llm_graph_result & res);

    //
    // called by who decodes nodes
    //

    // forget the nodes that the batch under way has added
    void undo();

    // forget the nodes that are not kept. those behind them move up
    void prune(llama_seq_id seq_id, const std::vector<bool> & keep);

    // let the state of a text go on over a path of nodes, and forget all nodes of the sequence
    void commit(llama_memory_recurrent & mem, llama_context * lctx, llama_seq_id seq_id, const std::vector<int32_t> & path);

private:
    friend class llm_graph_input_state_tree;

    void add_ops(ggml_cgraph * gf);

    void rewrite(llama_memory_recurrent & mem, llm_graph_result & res);

    uint32_t slot_of(llama_seq_id seq_id, int32_t node);

    // the nodes that were there before, of the sequences that the batch under way adds nodes to
    std::vector<std::pair<llama_seq_id, int32_t>> old_nodes() const;

    // the nodes of a sequence from n_kept on
    void release(llama_seq_id seq_id, size_t n_kept);

    void commit_states(llama_context * lctx, const std::vector<int32_t> & at, int64_t src, int64_t dst);

    uint32_t n_slots = 0;

    llama_state_caches caches;

    // what ops keep of nodes, in the order of the graph. made by the first pass over nodes
    std::vector<llama_state_op> ops;
    ggml_context_ptr            ctx_kept;
    ggml_backend_buffer_ptr     buf_kept;
    ggml_gallocr_ptr            galloc;

    std::map<llama_seq_id, std::vector<uint32_t>> slots; // by sequence, of each node of its tree

    std::set<uint32_t> free_slots;
};
