// the masks that attention really used, and the cells of a cache

#include "treellama-impl.h"

#include "llama-kv-cache.h"

#include <cstring>
#include <map>
#include <vector>

struct treellama_probe {
    struct record {
        bool is_swa;

        int32_t n_kv;
        int32_t n_tokens;
        int32_t n_streams;

        std::vector<float> data;
    };

    std::vector<record> records;

    // the attention op that showed each mask first: when it comes by again, a new micro-batch has begun
    std::map<std::string, std::string> first_op;
};

static const ggml_tensor * attention_mask(const ggml_tensor * op) {
    switch (op->op) {
        case GGML_OP_FLASH_ATTN_EXT: return op->src[3];
        case GGML_OP_SOFT_MAX:       return op->src[1];
        default:                     return nullptr;
    }
}

// the mask is read after its op has run, from wherever the backend keeps it
static std::vector<float> read_floats(const ggml_tensor * tensor) {
    std::vector<float> res(ggml_nelements(tensor));

    if (tensor->type == GGML_TYPE_F16) {
        std::vector<ggml_fp16_t> half(res.size());
        ggml_backend_tensor_get(tensor, half.data(), 0, ggml_nbytes(tensor));
        ggml_fp16_to_fp32_row(half.data(), res.data(), (int64_t) res.size());
    } else {
        ggml_backend_tensor_get(tensor, res.data(), 0, ggml_nbytes(tensor));
    }

    return res;
}

bool treellama_probe_eval(ggml_tensor * op, bool ask, void * user_data) {
    auto * probe = (treellama_probe *) user_data;

    // a mask that was copied to another device keeps its name as a part of the copy's
    const ggml_tensor * mask = attention_mask(op);
    if (!mask || !strstr(mask->name, "attn_inp_kq_mask")) {
        return false;
    }

    const auto it = probe->first_op.emplace(mask->name, op->name).first;
    if (it->second != op->name) {
        return false;
    }

    if (!ask) {
        probe->records.push_back({
            /*.is_swa    =*/ strstr(mask->name, "attn_inp_kq_mask_swa") != nullptr,
            /*.n_kv      =*/ (int32_t) mask->ne[0],
            /*.n_tokens  =*/ (int32_t) mask->ne[1],
            /*.n_streams =*/ (int32_t) mask->ne[3],
            /*.data      =*/ read_floats(mask),
        });
    }

    return true;
}

treellama_probe * treellama_probe_new(void) {
    return new treellama_probe();
}

void treellama_probe_free(treellama_probe * probe) {
    delete probe;
}

void treellama_probe_reset(treellama_probe * probe) {
    probe->records.clear();
    probe->first_op.clear();
}

int32_t treellama_probe_count(const treellama_probe * probe) {
    return (int32_t) probe->records.size();
}

int32_t treellama_probe_read(
        const treellama_probe * probe, int32_t i,
        bool * is_swa, int32_t * n_kv, int32_t * n_tokens, int32_t * n_streams, float * data) {
    if (i < 0 || i >= (int32_t) probe->records.size()) {
        return -1;
    }

    const auto & record = probe->records[i];

    *is_swa    = record.is_swa;
    *n_kv      = record.n_kv;
    *n_tokens  = record.n_tokens;
    *n_streams = record.n_streams;

    if (data) {
        memcpy(data, record.data.data(), record.data.size()*sizeof(float));
    }

    return 0;
}

int32_t treellama_cells(llama_context * ctx, bool swa, llama_seq_id seq_id, llama_pos * pos, int32_t * nodes, uint32_t * seqs) {
    const auto * cache = treellama_find_cache(ctx, swa);
    if (!cache) {
        return -1;
    }

    const auto & cells = cache->get_cells(seq_id);

    for (uint32_t i = 0; pos && i < cells.size(); ++i) {
        pos[i]   = cells.is_empty(i) ? -1 : cells.pos_get(i);
        nodes[i] = cells.node_get(i);
    }

    constexpr uint32_t n_words = TREELLAMA_N_SEQ_MAX/32;
    for (uint32_t i = 0; seqs && i < cells.size(); ++i) {
        memset(seqs + i*n_words, 0, n_words*sizeof(uint32_t));
        for (llama_seq_id s = 0; s < TREELLAMA_N_SEQ_MAX; ++s) {
            if (cells.seq_has(i, s)) {
                seqs[i*n_words + s/32] |= 1u << (s%32);
            }
        }
    }

    return (int32_t) cells.size();
}
