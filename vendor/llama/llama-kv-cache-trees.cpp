#include "llama-kv-cache-trees.h"

#include "llama-context.h"
#include "llama-huge-pages.h"
#include "llama-impl.h"
#include "llama-kv-cache.h"
#include "llama-kv-cache-dsa-iswa.h"
#include "llama-kv-cache-dsa.h"
#include "llama-kv-cache-iswa.h"
#include "llama-kv-cache-msa.h"
#include "llama-memory-hybrid-idx.h"
#include "llama-memory-hybrid-iswa.h"
#include "llama-memory-hybrid.h"
#include "llama-state-trees.h"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <iterator>
#include <set>

static const uint32_t NO_CELL = UINT32_MAX;

const llama_memory_i * llama_find_attention(const llama_memory_i * mem) {
    if (const auto * hybrid = dynamic_cast<const llama_memory_hybrid *>(mem)) {
        return hybrid->get_mem_attn();
    }
    if (const auto * hybrid = dynamic_cast<const llama_memory_hybrid_iswa *>(mem)) {
        return hybrid->get_mem_attn();
    }
    return mem;
}

llama_kv_cache * llama_find_kv_cache(const llama_memory_i * mem, bool swa) {
    if (const auto * iswa = dynamic_cast<const llama_kv_cache_iswa *>(mem)) {
        return swa ? iswa->get_swa() : iswa->get_base();
    }
    if (const auto * iswa = dynamic_cast<const llama_kv_cache_dsa_iswa *>(mem)) {
        return swa ? iswa->get_swa() : iswa->get_dsa()->get_mla();
    }
    if (swa) {
        return nullptr;
    }
    if (const auto * dsa = dynamic_cast<const llama_kv_cache_dsa *>(mem)) {
        return dsa->get_mla();
    }
    if (const auto * msa = dynamic_cast<const llama_kv_cache_msa *>(mem)) {
        return msa->get_base();
    }
    return const_cast<llama_kv_cache *>(dynamic_cast<const llama_kv_cache *>(mem));
}

// the cache of an indexer's keys
static llama_kv_cache * find_indexer(const llama_memory_i * mem) {
    if (const auto * iswa = dynamic_cast<const llama_kv_cache_dsa_iswa *>(mem)) {
        return iswa->get_dsa()->get_lid();
    }
    if (const auto * dsa = dynamic_cast<const llama_kv_cache_dsa *>(mem)) {
        return dsa->get_lid();
    }
    if (const auto * msa = dynamic_cast<const llama_kv_cache_msa *>(mem)) {
        return msa->get_idx();
    }
    return nullptr;
}

std::vector<llama_kv_cache *> llama_find_kv_caches(const llama_memory_i * mem) {
    // the pools of an indexer among recurrent layers do not know nodes
    if (dynamic_cast<const llama_memory_hybrid_idx *>(mem)) {
        return {};
    }
    const auto * attn = llama_find_attention(mem);

    std::vector<llama_kv_cache *> res;

    for (auto * cache : { llama_find_kv_cache(attn, false), find_indexer(attn), llama_find_kv_cache(attn, true) }) {
        if (cache) {
            res.push_back(cache);
        }
    }
    return res;
}

bool llama_memory_grows_tree(const llama_memory_i * mem, llama_seq_id seq_id) {
    const auto * trees = llama_find_trees(mem);

    return trees && trees->grows(seq_id);
}

bool llama_kv_cache_trees::can_hold(const llama_kv_cache & kv) {
    return !kv.other && kv.hparams.ple_n_heads == 0 && kv.swa_type != LLAMA_SWA_TYPE_SYMMETRIC;
}

bool llama_kv_cache_trees::is_host(const llama_kv_cache & kv) {
    return std::all_of(kv.ctxs_bufs.begin(), kv.ctxs_bufs.end(), [](const auto & ctx_buf) {
        return ggml_backend_buffer_is_host(ctx_buf.second.get());
    });
}

bool llama_kv_cache_trees::holds(const llama_kv_cache & kv, const ggml_tensor * k, const ggml_tensor * v) {
    return !kv.v_trans && std::any_of(kv.layers.begin(), kv.layers.end(), [&](const auto & layer) {
        // MLA keeps no V: it is a part of K
        return layer.k == k && (layer.v ? layer.v : layer.k) == v;
    });
}

void llama_kv_cache_trees::use_huge_pages(const llama_kv_cache & kv) {
    for (const auto & [_, buffer] : kv.ctxs_bufs) {
        llama_use_huge_pages(buffer.get());
    }
}

void llama_kv_cache_trees::clear() {
    trees->clear();
    cells.clear();
}

void llama_kv_cache_trees::place(const llama_ubatch & ubatch, uint32_t i, uint32_t cell) {
    const int32_t node = trees->batch_node(ubatch, i);
    if (node < 0) {
        return;
    }

    auto & res = cells[ubatch.seq_id[i][0]];
    if (res.size() <= (size_t) node) {
        res.resize(node + 1, NO_CELL);
    }
    res[node] = cell;
}

llama_pos llama_kv_cache_trees::pos_max_committed(llama_seq_id seq_id, llama_pos pos_max) const {
    const auto * tree = trees->get(seq_id);
    return tree ? tree->n_past - 1 : pos_max;
}

template <typename T>
void llama_kv_cache_trees::mask_nodes(const llama_kv_cache & kv, T * data, int64_t n_kv, const llama_ubatch & ubatch) const {
    for (uint32_t i = 0; i < ubatch.n_tokens; ++i) {
        const int32_t node = trees->batch_node(ubatch, i);
        if (node < 0) {
            continue;
        }

        const llama_seq_id seq_id = ubatch.seq_id[i][0];

        const auto & tree = *trees->get(seq_id);
        const auto & at   = cells.at(seq_id);

        T * row = data + n_kv*i;

        for (uint32_t n = 0; n < tree.n_nodes() && n < at.size(); ++n) {
            if (at[n] < n_kv) {
                row[at[n]] = llama_cast<T>(-INFINITY);
            }
        }

        for (int32_t a = node; a >= 0; a = tree.parents[a]) {
            if (llama_hparams::is_masked_swa(kv.n_swa, kv.swa_type, tree.pos[a], tree.pos[node])) {
                continue;
            }

            const float distance = std::abs(tree.pos[a] - tree.pos[node]);

            row[at[a]] = llama_cast<T>(kv.hparams.use_alibi ? -distance : 0.0f);
        }
    }
}

void llama_kv_cache_trees::set_input_kq_mask(const llama_kv_cache & kv, ggml_tensor * dst, const llama_ubatch & ubatch) const {
    if (!trees->adds_nodes()) {
        return;
    }

    if (dst->type == GGML_TYPE_F16) {
        mask_nodes(kv, (ggml_fp16_t *) dst->data, dst->ne[0], ubatch);
    } else {
        mask_nodes(kv, (float *) dst->data, dst->ne[0], ubatch);
    }
}

const std::vector<uint32_t> & llama_kv_cache_trees::get_cells(llama_seq_id seq_id) const {
    return cells.at(seq_id);
}

void llama_kv_cache_trees::undo(llama_kv_cache & kv) {
    for (auto & [seq_id, at] : cells) {
        if (!trees->grows(seq_id)) {
            continue;
        }

        const auto & tree = *trees->get(seq_id);

        auto & kv_cells = kv.v_cells[kv.seq_to_stream[seq_id]];
        auto & head     = kv.v_heads[kv.seq_to_stream[seq_id]];

        for (uint32_t n = tree.n_kept; n < tree.n_nodes() && n < at.size(); ++n) {
            // if an earlier part of the batch has failed, the node was not placed, and others may have its cell
            if (at[n] < kv_cells.size() && kv_cells.seq_has(at[n], seq_id) && kv_cells.pos_get(at[n]) == tree.pos[n]) {
                kv_cells.seq_rm(at[n], seq_id);
                head = std::min(head, at[n]);
            }
        }

        // a later node of this number may go elsewhere, and what stands here now may be a node that is pending
        at.resize(std::min<size_t>(at.size(), tree.n_kept));
    }
}

void llama_kv_cache_trees::prune(llama_kv_cache & kv, llama_seq_id seq_id, const std::vector<bool> & keep) {
    const auto strm = kv.seq_to_stream[seq_id];

    auto & head = kv.v_heads[strm];
    auto & at   = cells.at(seq_id);

    size_t n = 0;
    for (size_t i = 0; i < keep.size(); ++i) {
        if (keep[i]) {
            at[n++] = at[i];
        } else {
            kv.v_cells[strm].seq_rm(at[i], seq_id);
            head = std::min(head, at[i]);
        }
    }
    at.resize(n);
}

// where the cells of a path go, which are in src: to the lowest of the tree's
static std::vector<uint32_t> destinations(const std::vector<uint32_t> & src, const std::vector<uint32_t> & lowest) {
    std::vector<uint32_t> res(lowest.begin(), lowest.begin() + src.size());

    if (std::is_sorted(src.begin(), src.end())) {
        return res;
    }

    // the tree went on in lower cells: moving all in order could overwrite what has not been moved yet
    // so those that stand well stay, and the others fill the gaps
    const std::set<uint32_t> sources(src.begin(), src.end());

    std::vector<uint32_t> gaps;
    std::set_difference(res.begin(), res.end(), sources.begin(), sources.end(), std::back_inserter(gaps));

    const uint32_t end = res.empty() ? 0 : res.back() + 1;

    size_t i_gap = 0;
    for (size_t i = 0; i < src.size(); ++i) {
        res[i] = src[i] < end ? src[i] : gaps[i_gap++];
    }

    return res;
}

void llama_kv_cache_trees::commit(
        llama_kv_cache & kv, llama_context * lctx, llama_seq_id seq_id, const std::vector<int32_t> & path, bool in_place) {
    const auto strm = kv.seq_to_stream[seq_id];

    auto & kv_cells = kv.v_cells[strm];
    auto & head     = kv.v_heads[strm];

    const auto & tree = *trees->get(seq_id);

    auto all = cells.at(seq_id);
    all.resize(tree.n_nodes());

    std::vector<uint32_t> src;
    for (const int32_t n : path) {
        src.push_back(all[n]);
    }

    std::sort(all.begin(), all.end());

    // attention of devices has no order of cells that a move could keep
    const auto dst = in_place || !is_host(kv) ? src : destinations(src, all);

    copy_cells(kv, strm, src, dst, lctx);

    std::vector<llama_kv_cell_ext> exts;
    for (const uint32_t i : src) {
        exts.push_back(kv_cells.ext_get(i));
    }

    for (const uint32_t i : all) {
        kv_cells.seq_rm(i, seq_id);
    }

    for (size_t i = 0; i < dst.size(); ++i) {
        kv_cells.pos_set(dst[i], tree.pos[path[i]]);
        kv_cells.ext_set(dst[i], exts[i]);
        kv_cells.seq_add(dst[i], seq_id);
    }

    // search for free cells where the tree has left the first
    const auto freed = std::find_if(all.begin(), all.end(), [&](uint32_t i) { return kv_cells.is_empty(i); });
    if (freed != all.end()) {
        head = std::min(head, *freed);
    }

    cells.erase(seq_id);
}

// between cells of a stream, bit for bit
void llama_kv_cache_trees::copy_cells(
        const llama_kv_cache & kv, uint32_t strm, const std::vector<uint32_t> & src, const std::vector<uint32_t> & dst,
        llama_context * lctx) {
    if (src == dst) {
        return;
    }

    llama_synchronize(lctx);

    const auto copy_rows = [&](const ggml_tensor * t) {
        char * data = (char *) t->data;

        for (size_t i = 0; i < src.size(); ++i) {
            if (src[i] != dst[i]) {
                memcpy(data + dst[i]*t->nb[1], data + src[i]*t->nb[1], t->nb[1]);
            }
        }
    };

    // element [i] of cell [j] at i*kv_size + j
    const auto copy_columns = [&](const ggml_tensor * t) {
        const size_t size = ggml_type_size(t->type);

        for (int64_t i = 0; i < t->ne[0]; ++i) {
            char * data = (char *) t->data + i*t->ne[1]*size;

            for (size_t j = 0; j < src.size(); ++j) {
                if (src[j] != dst[j]) {
                    memcpy(data + dst[j]*size, data + src[j]*size, size);
                }
            }
        }
    };

    for (const auto & layer : kv.layers) {
        copy_rows(layer.k_stream[strm]);

        if (layer.v_stream[strm] && kv.v_trans) {
            copy_columns(layer.v_stream[strm]);
        } else if (layer.v_stream[strm]) {
            copy_rows(layer.v_stream[strm]);
        }
    }
}

// the first backend that can use a buffer is the one it belongs to
ggml_backend_t llama_backend_of(ggml_backend_sched_t sched, const ggml_tensor * t) {
    for (int i = 0; i < ggml_backend_sched_get_n_backends(sched); ++i) {
        ggml_backend_t backend = ggml_backend_sched_get_backend(sched, i);
        if (ggml_backend_supports_buft(backend, ggml_backend_buffer_get_type(t->buffer))) {
            return backend;
        }
    }
    return nullptr;
}
