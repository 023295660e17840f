// drafts that models carry: NextN layers and EAGLE-3 models

#include "treellama-impl.h"

#include "llama-context.h"
#include "llama-ext.h"
#include "llama-impl.h"
#include "llama-model.h"

#include <algorithm>
#include <cstring>

static bool has_mtp_graph(const llama_model & model) {
    switch (model.arch) {
        case LLM_ARCH_BAILINGMOE3:
        case LLM_ARCH_COHERE2MOE:
        case LLM_ARCH_DEEPSEEK2:
        case LLM_ARCH_DEEPSEEK32:
        case LLM_ARCH_DEEPSEEK4:
        case LLM_ARCH_GLM_DSA:
        case LLM_ARCH_GLM4_MOE:
        case LLM_ARCH_HY_V3:
        case LLM_ARCH_MIMO2:
        case LLM_ARCH_NEMOTRON_H_MOE:
        case LLM_ARCH_QWEN35:
        case LLM_ARCH_QWEN35MOE:
        case LLM_ARCH_QWEN3NEXT:
        case LLM_ARCH_STEP35:
            return true;
        default:
            return false;
    }
}

// the graphs of the others end the process where a file has more than one NextN layer
static bool has_graph_of_several(const llama_model & model) {
    switch (model.arch) {
        case LLM_ARCH_HY_V3:
        case LLM_ARCH_MIMO2:
        case LLM_ARCH_STEP35:
            return true;
        default:
            return false;
    }
}

int32_t treellama_mtp_state(const llama_model * model) {
    const auto & hparams = model->hparams;

    // where router_layer is set, llama.cpp counts a router's layer among these
    if (hparams.n_layer_nextn == 0 || hparams.router_layer >= 0) {
        return TREELLAMA_MTP_NONE;
    }
    if (!has_mtp_graph(*model) || (hparams.n_layer_nextn > 1 && !has_graph_of_several(*model))) {
        return TREELLAMA_MTP_NO_GRAPH;
    }
    return model->layers[hparams.n_layer()].nextn.eh_proj ? TREELLAMA_MTP_LOADED : TREELLAMA_MTP_NOT_LOADED;
}

int32_t treellama_target_layers(const llama_model * model, int32_t * layers, int32_t n_max) {
    const int32_t n = (int32_t) llama_model_target_layer_ids_n(model);

    for (int32_t i = 0; i < std::min(n, n_max); ++i) {
        layers[i] = llama_model_target_layer_ids(model)[i];
    }

    return n;
}

//
// what the target's passes leave
//

static bool offers(const llama_context & ctx, int32_t layer) {
    const auto & model = ctx.get_model();
    const auto * graph = ctx.get_gf_res_reserve();

    const int32_t n_layer = (int32_t) model.hparams.n_layer();
    if (layer == n_layer) {
        return has_mtp_graph(model) || graph->get_h_nextn();
    }

    return layer >= 0 && layer < n_layer && graph->get_layer_inp(layer);
}

int32_t treellama_features_keep(llama_context * ctx, const int32_t * layers, int32_t n_layers) {
    for (int32_t i = 0; i < n_layers; ++i) {
        if (!offers(*ctx, layers[i])) {
            return -1;
        }
    }

    for (int32_t i = 0; i < n_layers; ++i) {
        if (layers[i] == (int32_t) ctx->get_model().hparams.n_layer()) {
            ctx->set_embeddings_nextn(true, false);
        } else {
            ctx->set_embeddings_layer_inp(layers[i], true);
        }
    }

    return 0;
}

static const float * kept(llama_context & ctx, int32_t layer) {
    const auto & cparams = ctx.get_cparams();

    if (layer == (int32_t) ctx.get_model().hparams.n_layer()) {
        return cparams.embeddings_nextn ? ctx.get_embeddings_nextn() : nullptr;
    }

    const bool is_kept = layer >= 0 && layer < (int32_t) cparams.embeddings_layer_inp.size() && cparams.embeddings_layer_inp[layer];
    return is_kept ? ctx.get_embeddings_layer_inp(layer) : nullptr;
}

int32_t treellama_features(
        llama_context * ctx, const int32_t * layers, int32_t n_layers, const int32_t * tokens, int32_t n_tokens, float * out) {
    return treellama_guard(TREELLAMA_EXCEPTION, [&] {
        const auto & hparams = ctx->get_model().hparams;

        ctx->synchronize();

        for (int32_t il = 0; il < n_layers; ++il) {
            const float * states = kept(*ctx, layers[il]);
            if (!states) {
                return -1;
            }

            const size_t n_embd = layers[il] == (int32_t) hparams.n_layer() ? hparams.n_embd_out() : hparams.n_embd;
            for (int32_t i = 0; i < n_tokens; ++i) {
                memcpy(out + (i*n_layers + il)*n_embd, states + tokens[i]*n_embd, n_embd*sizeof(float));
            }
        }

        return 0;
    });
}

//
// the draft context
//

void treellama_draft_states_keep(llama_context * ctx) {
    // some graphs keep all rows even if masked: the two agree where every token is flagged, or none
    ctx->set_embeddings_nextn(true, true);
}

int32_t treellama_draft_states(llama_context * ctx, int32_t n_rows, float * out) {
    ctx->synchronize();

    const float * states = ctx->get_embeddings_nextn();
    if (!states) {
        return -1;
    }

    memcpy(out, states, (size_t) n_rows*ctx->get_model().hparams.n_embd_out()*sizeof(float));
    return 0;
}

int32_t treellama_draft_encode(llama_context * ctx, const float * features, int32_t n_rows, float * out) {
    return treellama_catch(TREELLAMA_EXCEPTION, [&] {
        treellama_turn turn(ctx);

        const size_t n_in  = ctx->get_model().hparams.n_embd_inp_enc();
        const size_t n_out = ctx->get_model().hparams.n_embd_out();

        const int32_t n_part = (int32_t) ctx->n_ubatch();
        for (int32_t i = 0; i < n_rows; i += n_part) {
            const int32_t n = std::min(n_part, n_rows - i);

            llama_batch batch = { n, nullptr, const_cast<float *>(features) + i*n_in, nullptr, nullptr, nullptr, nullptr };

            const int32_t status = llama_encode(ctx, batch);
            if (status != 0) {
                return status;
            }
            treellama_draft_states(ctx, n, out + i*n_out);
        }

        return 0;
    });
}
