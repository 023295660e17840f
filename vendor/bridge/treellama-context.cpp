// contexts: decode, memory, state, and the probe that tells which mask attention used

#include "treellama-impl.h"

#include "llama-context.h"
#include "llama-cparams.h"
#include "llama-impl.h"
#include "llama-kv-cache.h"
#include "llama-model.h"

#include <cstring>
#include <map>
#include <vector>

//
// probe
//

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

static bool probe_eval(ggml_tensor * op, bool ask, void * user_data) {
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

int32_t treellama_n_cells_used(llama_context * ctx, llama_seq_id seq_id) {
    const auto * cache = treellama_find_cache(ctx, false);
    return cache ? (int32_t) cache->get_cells(seq_id).get_used() : -1;
}

int32_t treellama_cells(llama_context * ctx, bool swa, llama_seq_id seq_id, llama_pos * pos, int32_t * nodes, uint32_t * seqs) {
    const auto * cache = treellama_find_cache(ctx, swa);
    if (!cache) {
        return -1;
    }

    const auto & cells = cache->get_cells(seq_id);

    for (uint32_t i = 0; pos && i < cells.size(); ++i) {
        pos[i]   = cells.is_empty(i) ? -1 : cells.pos_get(i);
        nodes[i] = -1;
    }

    const auto stream = cache->get_stream(seq_id);
    for (llama_seq_id s = 0; pos && s < (llama_seq_id) ctx->n_seq_max(); ++s) {
        const auto * tree = cache->get_stream(s) == stream ? cache->trees.trees->get(s) : nullptr;
        for (uint32_t n = 0; tree && n < tree->n_nodes(); ++n) {
            nodes[cache->trees.get_cells(s)[n]] = (int32_t) n;
        }
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

//
// context
//

static_assert(TREELLAMA_N_SEQ_MAX     == LLAMA_MAX_SEQ,      "what users are told must be what is checked");
static_assert(TREELLAMA_N_THREADS_MAX == GGML_MAX_N_THREADS, "what users are told must be what is checked");

bool treellama_abort_if(void * flag) {
    return *(volatile int32_t *) flag != 0;
}

llama_context * treellama_context_init(llama_model * model, const llama_context_params * params, treellama_probe * probe) {
    return treellama_guard((llama_context *) nullptr, [&] {
        llama_context_params cparams = *params;
        if (probe) {
            cparams.cb_eval           = probe_eval;
            cparams.cb_eval_user_data = probe;
        }
        llama_context * ctx = llama_init_from_model(model, cparams);
        treellama_share_trees(ctx);
        return ctx;
    });
}

// a position without a row of its own ends the process on the threads that look it up
static bool positions_exist(const llama_model & model, const llama_batch & batch) {
    const int64_t n_pos = treellama_n_positions(&model);

    for (int32_t i = 0; n_pos >= 0 && i < batch.n_tokens; ++i) {
        if (batch.pos[i] >= n_pos) {
            LLAMA_LOG_ERROR("position %d: this model has learned %d positions, and no others\n", batch.pos[i], (int) n_pos);
            return false;
        }
    }

    return true;
}

int32_t treellama_decode_checked(llama_context * ctx, const llama_batch & batch) {
    if (!positions_exist(ctx->get_model(), batch)) {
        return -1;
    }

    treellama_turn turn(ctx);
    return llama_decode(ctx, batch);
}

int32_t treellama_decode(llama_context * ctx, const llama_batch * batch) {
    return treellama_catch(TREELLAMA_EXCEPTION, [&] {
        return treellama_is_text(ctx, *batch) ? treellama_decode_checked(ctx, *batch) : -1;
    });
}

int32_t treellama_decode_one(llama_context * ctx, llama_token token, llama_seq_id seq_id) {
    llama_pos      pos      = llama_memory_seq_pos_max(llama_get_memory(ctx), seq_id) + 1;
    int32_t        n_seq_id = 1;
    llama_seq_id * seq_ids  = &seq_id;
    int8_t         output   = 1;

    const llama_batch batch = { 1, &token, nullptr, &pos, &n_seq_id, &seq_ids, &output };

    return treellama_decode(ctx, &batch);
}

//
// hidden states
//

void treellama_hidden_keep(llama_context * ctx, bool keep) {
    ctx->set_embeddings(keep, keep);
}

int32_t treellama_hidden(llama_context * ctx, const int32_t * rows, int32_t n_rows, float * out) {
    const float * states = ctx->get_embeddings();
    if (!states) {
        return -1;
    }

    const size_t n_embd = ctx->get_model().hparams.n_embd_out();
    for (int32_t i = 0; i < n_rows; ++i) {
        memcpy(out + i*n_embd, states + rows[i]*n_embd, n_embd*sizeof(float));
    }

    return 0;
}

//
// memory
//

int32_t treellama_memory_clear(llama_context * ctx, bool data) {
    return treellama_guard(TREELLAMA_EXCEPTION, [&] {
        llama_memory_clear(llama_get_memory(ctx), data);
        return 0;
    });
}

int32_t treellama_memory_seq_rm(llama_context * ctx, llama_seq_id seq_id, llama_pos p0, llama_pos p1) {
    return treellama_guard(TREELLAMA_EXCEPTION, [&] {
        return llama_memory_seq_rm(llama_get_memory(ctx), seq_id, p0, p1) ? 0 : 1;
    });
}

int32_t treellama_memory_seq_cp(llama_context * ctx, llama_seq_id src, llama_seq_id dst, llama_pos p0, llama_pos p1) {
    return treellama_guard(TREELLAMA_EXCEPTION, [&] {
        llama_memory_seq_cp(llama_get_memory(ctx), src, dst, p0, p1);
        return 0;
    });
}

int32_t treellama_memory_seq_keep(llama_context * ctx, llama_seq_id seq_id) {
    return treellama_guard(TREELLAMA_EXCEPTION, [&] {
        llama_memory_seq_keep(llama_get_memory(ctx), seq_id);
        return 0;
    });
}

int32_t treellama_memory_seq_add(llama_context * ctx, llama_seq_id seq_id, llama_pos p0, llama_pos p1, llama_pos delta) {
    return treellama_guard(TREELLAMA_EXCEPTION, [&] {
        llama_memory_seq_add(llama_get_memory(ctx), seq_id, p0, p1, delta);
        return 0;
    });
}

int32_t treellama_memory_seq_div(llama_context * ctx, llama_seq_id seq_id, llama_pos p0, llama_pos p1, int32_t d) {
    return treellama_guard(TREELLAMA_EXCEPTION, [&] {
        llama_memory_seq_div(llama_get_memory(ctx), seq_id, p0, p1, d);
        return 0;
    });
}

bool treellama_memory_can_shift(llama_context * ctx) {
    return llama_memory_can_shift(llama_get_memory(ctx)) && !ctx->get_model().pos_embd;
}

int32_t treellama_memory_update(llama_context * ctx) {
    return treellama_catch(TREELLAMA_EXCEPTION, [&] {
        ctx->memory_update(false);
        return 0;
    });
}

int32_t treellama_memory_ranges(
        llama_context * ctx, const llama_seq_id * seq_ids, int32_t n_seqs, llama_pos * pos_min, llama_pos * pos_max) {
    return treellama_guard(TREELLAMA_EXCEPTION, [&] {
        llama_memory_t memory = llama_get_memory(ctx);
        for (int32_t i = 0; i < n_seqs; ++i) {
            pos_min[i] = llama_memory_seq_pos_min(memory, seq_ids[i]);
            pos_max[i] = llama_memory_seq_pos_max(memory, seq_ids[i]);
        }
        return 0;
    });
}

//
// state
//

size_t treellama_state_size(llama_context * ctx, llama_seq_id seq_id) {
    return treellama_guard((size_t) 0, [&] {
        return seq_id < 0 ? llama_state_get_size(ctx) : llama_state_seq_get_size(ctx, seq_id);
    });
}

size_t treellama_state_get(llama_context * ctx, llama_seq_id seq_id, uint8_t * dst, size_t size) {
    return treellama_guard((size_t) 0, [&] {
        return seq_id < 0 ? llama_state_get_data(ctx, dst, size) : llama_state_seq_get_data(ctx, dst, size, seq_id);
    });
}

// a whole state begins with the name of an architecture, for which llama.cpp takes the memory before it reads it
static bool has_name(const uint8_t * src, size_t size) {
    uint32_t n_name;
    if (size < sizeof(n_name)) {
        return false;
    }
    memcpy(&n_name, src, sizeof(n_name));
    return n_name <= size - sizeof(n_name);
}

size_t treellama_state_set(llama_context * ctx, llama_seq_id seq_id, const uint8_t * src, size_t size) {
    return treellama_guard((size_t) 0, [&]() -> size_t {
        if (seq_id >= 0) {
            return llama_state_seq_set_data(ctx, src, size, seq_id);
        }
        return has_name(src, size) ? llama_state_set_data(ctx, src, size) : 0;
    });
}
