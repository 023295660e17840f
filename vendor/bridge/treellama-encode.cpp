// encoders: passes over whole texts

#include "treellama-impl.h"

#include "llama-context.h"
#include "llama-impl.h"
#include "llama-model.h"

#include <cstring>

// rows of another width than n_embd_out would be read beyond their end
static bool has_rows_of_embd_out(const llama_model & model) {
    const auto * last = model.dense_3_out_layers ? model.dense_3_out_layers : model.dense_2_out_layers;

    return last ? last->ne[1] == (int64_t) model.hparams.n_embd_out() : model.hparams.n_embd_out() == model.hparams.n_embd;
}

bool treellama_is_encoder_arch(const llama_model & model) {
    switch (model.arch) {
        case LLM_ARCH_BERT:
        case LLM_ARCH_EUROBERT:
        case LLM_ARCH_GEMMA_EMBEDDING:
        case LLM_ARCH_JINA_BERT_V2:
        case LLM_ARCH_JINA_BERT_V3:
        case LLM_ARCH_LLAMA_EMBED:
        case LLM_ARCH_MODERN_BERT:
        case LLM_ARCH_NEO_BERT:
        case LLM_ARCH_NOMIC_BERT:
        case LLM_ARCH_NOMIC_BERT_MOE:
        case LLM_ARCH_T5ENCODER:
            return true;
        default:
            return false;
    }
}

bool treellama_model_is_encoder(const llama_model * model) {
    return treellama_is_encoder_arch(*model) && (model->hparams.vocab_only || has_rows_of_embd_out(*model));
}

int32_t treellama_model_n_class(const llama_model * model) {
    const auto * last = model->cls_out ? model->cls_out : model->cls;

    // llama.cpp reads n_cls_out numbers a sequence, whatever the head puts out
    const int64_t n = model->hparams.n_cls_out;
    return last && last->ne[1] == n ? (int32_t) n : 0;
}

// what encode() would end the process over
static bool is_one_pass_of_texts(const llama_context & ctx, const llama_batch & batch) {
    if (batch.n_tokens > (int32_t) ctx.n_ubatch()) {
        LLAMA_LOG_ERROR("%d tokens: an encoder reads at most n_ubatch = %u in a pass\n", batch.n_tokens, ctx.n_ubatch());
        return false;
    }

    const int64_t n_pos = treellama_n_positions(&ctx.get_model());
    for (int32_t i = 0; i < batch.n_tokens; ++i) {
        if (n_pos >= 0 && batch.pos[i] >= n_pos) {
            LLAMA_LOG_ERROR("position %d: this model has learned %d positions, and no others\n", batch.pos[i], (int) n_pos);
            return false;
        }
        if (batch.n_seq_id[i] != 1) {
            LLAMA_LOG_ERROR("token %d belongs to %d sequences: an encoder's belong to one\n", i, batch.n_seq_id[i]);
            return false;
        }
    }
    return true;
}

int32_t treellama_encode(llama_context * ctx, const llama_batch * batch) {
    return treellama_catch(TREELLAMA_EXCEPTION, [&] {
        if (!is_one_pass_of_texts(*ctx, *batch)) {
            return -1;
        }

        treellama_turn turn(ctx);
        return llama_encode(ctx, *batch);
    });
}

int32_t treellama_class_scores(llama_context * ctx, int32_t n_seq, float * out) {
    const int32_t n_class = treellama_model_n_class(&ctx->get_model());

    ctx->synchronize();
    for (int32_t s = 0; s < n_seq; ++s) {
        const float * scores = ctx->get_embeddings_seq(s);
        if (!scores) {
            return -1;
        }
        memcpy(out + (size_t) s*n_class, scores, n_class*sizeof(float));
    }

    return 0;
}
