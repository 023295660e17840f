// contexts: making them, decoding, hidden states

#include "treellama-impl.h"

#include "llama-context.h"
#include "llama-cparams.h"
#include "llama-impl.h"
#include "llama-memory-hybrid-idx.h"
#include "llama-model.h"
#include "llama-state-chains.h"

#include <cstring>

static_assert(TREELLAMA_N_SEQ_MAX     == LLAMA_MAX_SEQ,      "what users are told must be what is checked");
static_assert(TREELLAMA_N_THREADS_MAX == GGML_MAX_N_THREADS, "what users are told must be what is checked");

// the thread that computes a graph is the one that asks
static thread_local int n_no_abort = 0;

treellama_no_abort:: treellama_no_abort() { ++n_no_abort; }
treellama_no_abort::~treellama_no_abort() { --n_no_abort; }

bool treellama_abort_if(void * flag) {
    return n_no_abort == 0 && *(volatile int32_t *) flag != 0;
}

llama_context * treellama_context_init(llama_model * model, const llama_context_params * params) {
    return treellama_guard((llama_context *) nullptr, [&] {
        llama_context * ctx = llama_init_from_model(model, *params);
        treellama_share_trees(ctx);
        if (ctx) {
            llama_state_chains::init(*ctx);
        }
        treellama_use_huge_pages(ctx);
        return ctx;
    });
}

void treellama_context_free(llama_context * ctx) {
    if (ctx) {
        // a device may still be at work in the buffers
        ctx->synchronize();
    }
    llama_free(ctx);
}

// weights, or what stands in a cache: rows that do not depend on what else is in the pass
static bool is_stored(const ggml_tensor * t) {
    while (t->view_src || t->op == GGML_OP_CPY) {
        t = t->view_src ? t->view_src : t->src[0];
    }
    // the matrices that rotate keys and values are inputs too, always the same
    const bool is_rotation = strcmp(t->name, "attn_inp_k_rot") == 0 || strcmp(t->name, "attn_inp_v_rot") == 0;

    return t->op == GGML_OP_NONE && (is_rotation || !(t->flags & GGML_TENSOR_FLAG_INPUT));
}

static bool is_batch_invariant(const ggml_tensor * node) {
    switch (node->op) {
        case GGML_OP_MUL_MAT:
        case GGML_OP_MUL_MAT_ID:
        case GGML_OP_OUT_PROD:
            return is_stored(node->src[0]);
        // with a mask it is attention, and the sum over cells that follows has the order of the cells
        case GGML_OP_SOFT_MAX:
            return !node->src[1];
        case GGML_OP_FLASH_ATTN_EXT:
            return node->src[5]; // the order, see ggml_flash_attn_ext_set_order()
        // of equal scores, those that stand first: ours is GGML_OP_CUSTOM, see llm_graph_order_top_cells()
        case GGML_OP_TOP_K:
            return false;
        default:
            return true;
    }
}

bool treellama_is_batch_invariant(const llama_context * ctx) {
    // an indexer among recurrent layers pools cells, and which attention follows depends on the pass
    if (dynamic_cast<const llama_memory_hybrid_idx *>(ctx->get_memory())) {
        return false;
    }

    ggml_cgraph * gf = ctx->get_gf_res_reserve()->get_gf();

    for (int i = 0; i < ggml_graph_n_nodes(gf); ++i) {
        if (!is_batch_invariant(ggml_graph_node(gf, i))) {
            return false;
        }
    }
    return true;
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

bool treellama_hidden_can_keep(const llama_context * ctx) {
    const ggml_tensor * states = ctx->get_gf_res_reserve()->get_embd();

    return states && states->ne[0] == (int64_t) ctx->get_model().hparams.n_embd_out();
}

void treellama_hidden_keep(llama_context * ctx, bool keep) {
    ctx->set_embeddings(keep, keep);
}

int32_t treellama_hidden(llama_context * ctx, const int32_t * rows, int32_t n_rows, float * out) {
    // a device may still be writing them
    ctx->synchronize();

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
