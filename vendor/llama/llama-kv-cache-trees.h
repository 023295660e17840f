#pragma once

#include "llama-kv-tree.h"
#include "llama-memory.h"

#include "ggml-backend.h"

#include <cstdint>
#include <map>
#include <memory>
#include <vector>

struct ggml_tensor;
struct llama_context;

class llama_kv_cache;

// the part of a hybrid memory that holds keys and values; any other memory itself. mem can be nullptr
const llama_memory_i * llama_find_attention(const llama_memory_i * mem);

// the KV cache of a memory, or that of its layers with sliding windows; nullptr if it has none. mem can be nullptr
llama_kv_cache * llama_find_kv_cache(const llama_memory_i * mem, bool swa);

// all KV caches of a memory, the one that has cells for the whole text first. besides it there can be one for layers with
//   sliding windows, and one for the keys of an indexer
std::vector<llama_kv_cache *> llama_find_kv_caches(const llama_memory_i * mem);

// the backend that a tensor of a context belongs to
ggml_backend_t llama_backend_of(ggml_backend_sched_t sched, const ggml_tensor * t);

// the speculative trees in one KV cache: which cells hold their nodes
class llama_kv_cache_trees {
public:
    // all caches of a context share their trees
    std::shared_ptr<llama_kv_trees> trees = std::make_shared<llama_kv_trees>();

    // false where a node would not know its past: cells that belong to another cache, tokens looked up by position,
    //   windows that reach beyond a token's own position
    static bool can_hold(const llama_kv_cache & kv);

    // whether the CPU can look at K and V
    static bool is_host(const llama_kv_cache & kv);

    // whether these are the K and V of one of its layers, as flash attention reads them
    static bool holds(const llama_kv_cache & kv, const ggml_tensor * k, const ggml_tensor * v);

    // once, before anything is in it
    static void use_huge_pages(const llama_kv_cache & kv);

    //
    // called by the cache
    //

    void clear();

    // token i of a ubatch has gone to a cell
    void place(const llama_ubatch & ubatch, uint32_t i, uint32_t cell);

    // the largest committed position, given the largest of all
    // a tree may be discarded, and the text then needs its last window again
    llama_pos pos_max_committed(llama_seq_id seq_id, llama_pos pos_max) const;

    // the rows of nodes, after the cache has written them as those of text: a node sees no other nodes than its ancestors
    void set_input_kq_mask(const llama_kv_cache & kv, ggml_tensor * dst, const llama_ubatch & ubatch) const;

    //
    // called by who decodes nodes
    //

    // the cell of each node of a sequence's tree
    const std::vector<uint32_t> & get_cells(llama_seq_id seq_id) const;

    // free the cells of all nodes that the batch under way has added, and forget them
    void undo(llama_kv_cache & kv);

    // free the cells of the nodes that are not kept. those behind them move up, see llama_kv_trees::prune()
    void prune(llama_kv_cache & kv, llama_seq_id seq_id, const std::vector<bool> & keep);

    // make a path of nodes committed text and free all other nodes of the sequence
    // on the host the path's cells move to the lowest that the tree has occupied, in order, so that the cache is left as
    //   sequential decoding would have left it. on a device, or if in_place, they stay: later tokens fill the gaps
    void commit(llama_kv_cache & kv, llama_context * lctx, llama_seq_id seq_id, const std::vector<int32_t> & path, bool in_place);

private:
    static void copy_cells(
            const llama_kv_cache & kv, uint32_t strm, const std::vector<uint32_t> & src, const std::vector<uint32_t> & dst,
            llama_context * lctx);

    template <typename T>
    void mask_nodes(const llama_kv_cache & kv, T * data, int64_t n_kv, const llama_ubatch & ubatch) const;

    // by sequence, for each node of its tree. While a batch is under way, nodes that are not placed yet may have the cells
    //   that were found for them
    std::map<llama_seq_id, std::vector<uint32_t>> cells;
};
