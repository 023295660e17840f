// model files

#include "treellama-impl.h"

#include "llama-model.h"

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

// a row of quantised values is whole blocks
static int64_t row_bytes(ggml_type type, int64_t n_values) {
    const int64_t n_block = ggml_blck_size(type);
    return (int64_t) ggml_row_size(type, (n_values + n_block - 1)/n_block*n_block);
}

int64_t treellama_kv_bytes(const llama_model * model, uint32_t n_ctx, ggml_type type_k, ggml_type type_v) {
    const auto & hparams = model->hparams;

    int64_t n_bytes = 0;
    for (uint32_t il = 0; il < hparams.n_layer(); ++il) {
        if (hparams.has_kv(il) && !hparams.is_recr(il)) {
            n_bytes += row_bytes(type_k, hparams.n_embd_k_gqa(il)) + row_bytes(type_v, hparams.n_embd_v_gqa(il));
        }
    }

    return n_bytes*n_ctx;
}

int64_t treellama_n_positions(const llama_model * model) {
    return model->pos_embd ? model->pos_embd->ne[1] : -1;
}

int32_t treellama_quantize(const char * path_in, const char * path_out, const llama_model_quantize_params * params) {
    return treellama_guard(TREELLAMA_EXCEPTION, [&] { return (int32_t) llama_model_quantize(path_in, path_out, params); });
}
