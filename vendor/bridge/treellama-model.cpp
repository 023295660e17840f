// model files

#include "treellama-impl.h"

#include "llama-model.h"

#include <functional>
#include <memory>

llama_model * treellama_model_load(const char * path, const llama_model_params * params) {
    return treellama_guard((llama_model *) nullptr, [&] {
        std::unique_ptr<llama_model, void (*)(llama_model *)> model(
                llama_model_load_from_file(path, *params), llama_model_free);
        if (model) {
            treellama_check_loaded(*model);
            treellama_drop_copied(*model);
        }
        return model.release();
    });
}

static bool has_layer(const llama_hparams & hparams, const std::function<bool(uint32_t)> & is_one) {
    for (uint32_t il = 0; il < hparams.n_layer(); ++il) {
        if (is_one(il)) {
            return true;
        }
    }
    return false;
}

// a memory of several parts, one of which no layer has: its inputs, which nothing reads, end the process
static const char * missing_layer(const llama_model & model) {
    const auto & hparams = model.hparams;

    const auto has_ratio = [&](uint32_t ratio) {
        return has_layer(hparams, [&](uint32_t il) { return hparams.dsv4_compress_ratios[il] == ratio; });
    };
    const auto has_kind = [&](bool is_recr) {
        const bool has_ffn_layers = model.arch == LLM_ARCH_NEMOTRON_H || model.arch == LLM_ARCH_NEMOTRON_H_MOE;
        return has_layer(hparams, [&](uint32_t il) {
            return hparams.is_recr(il) == is_recr && !(has_ffn_layers && hparams.n_ff(il) > 0);
        });
    };

    switch (model.arch) {
        case LLM_ARCH_DEEPSEEK4:
            return has_ratio(4) && has_ratio(128) ? nullptr : "it lacks layers that compress 4 cells, or 128";
        case LLM_ARCH_DOTS3NOTE:
            if (!has_layer(hparams, [&](uint32_t il) { return hparams.is_swa(il); })) {
                return "none of its layers has a sliding window";
            }
            if (!has_layer(hparams, [&](uint32_t il) { return !hparams.is_swa(il); })) {
                return "all of its layers have a sliding window";
            }
            if (has_layer(hparams, [&](uint32_t il) { return !hparams.is_swa(il) && !hparams.is_indexer_full(il); })) {
                return "a layer without a sliding window has no indexer";
            }
            return nullptr;
        case LLM_ARCH_FALCON_H1: // each layer is both
            return nullptr;
        default:
            break;
    }

    if (!llama_model_is_hybrid(&model)) {
        return nullptr;
    }
    if (!has_kind(false)) {
        return "it is a hybrid, and none of its layers has attention";
    }
    return has_kind(true) ? nullptr : "it is a hybrid, and none of its layers is recurrent";
}

const char * treellama_model_refusal(const llama_model * model) {
    if (treellama_is_encoder_arch(*model)) {
        return "it is an encoder";
    }
    switch (model->arch) {
        case LLM_ARCH_WAVTOKENIZER_DEC:
            return "it decodes audio codes";
        case LLM_ARCH_EAGLE3:
        case LLM_ARCH_DFLASH:
        case LLM_ARCH_GEMMA4_ASSISTANT:
            return "it is a draft model for one target, and needs that target's hidden states";
        // GGML_ASSERT ends the process: in ggml_backend_sched_split_graph() at passes without outputs, in cpy_v()
        case LLM_ARCH_CHAMELEON:
        case LLM_ARCH_PLM:
            return "this version of llama.cpp cannot run its graph";
        default:
            break;
    }
    if (llama_model_has_encoder(model)) {
        return "it is an encoder-decoder";
    }
    if (llama_model_is_diffusion(model)) {
        return "it is a diffusion model";
    }
    return model->hparams.causal_attn ? missing_layer(*model) : "its attention is not causal";
}

int64_t treellama_n_positions(const llama_model * model) {
    return model->pos_embd ? model->pos_embd->ne[1] : -1;
}

int32_t treellama_quantize(const char * path_in, const char * path_out, const llama_model_quantize_params * params) {
    return treellama_guard(TREELLAMA_EXCEPTION, [&] { return (int32_t) llama_model_quantize(path_in, path_out, params); });
}
