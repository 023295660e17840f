// what training needs of a model

#include "treellama-impl.h"
#include "treellama-gguf.h"

#include "llama-model.h"

#include <map>
#include <string>
#include <vector>

using namespace treellama;

int64_t treellama_norms(const llama_model * model, float * out) {
    return treellama_guard((int64_t) TREELLAMA_EXCEPTION, [&] {
        std::map<std::string, const ggml_tensor *> norms;
        for (const auto & [name, tensor] : model->tensors_by_name) {
            if (name.find("norm") != std::string::npos && tensor->type == GGML_TYPE_F32 && ggml_n_dims(tensor) == 1) {
                norms[name] = tensor;
            }
        }

        int64_t n = 0;
        for (const auto & [name, tensor] : norms) {
            if (out) {
                ggml_backend_tensor_get(tensor, out + n, 0, ggml_nbytes(tensor));
            }
            n += ggml_nelements(tensor);
        }
        return n;
    });
}

int32_t treellama_output_rows(const char * model_path, const int32_t * rows, int32_t n, int64_t n_embd, float * out) {
    return treellama_guard(TREELLAMA_EXCEPTION, [&] {
        const output_rows output(model_path);
        if (output.n_embd != n_embd) {
            fail("the model's output matrix has rows of " + std::to_string(output.n_embd) + " values");
        }
        std::vector<char> row(output.row_size());
        for (int32_t i = 0; i < n; ++i) {
            output.read(rows + i, 1, row.data());
            to_floats(output.type, row.data(), n_embd, out + i*n_embd);
        }
        return 0;
    });
}

int32_t treellama_embedding_rows(const llama_model * model, const int32_t * tokens, int32_t n, float * out) {
    return treellama_guard(TREELLAMA_EXCEPTION, [&] {
        const ggml_tensor * table = model->tok_embd;
        if (!table) {
            fail("the model has no table of embeddings");
        }
        for (int32_t i = 0; i < n; ++i) {
            read_embedding(table, tokens[i], out + i*table->ne[0]);
        }
        return 0;
    });
}

float treellama_logit_scale(const llama_model * model) {
    return model->hparams.f_logit_scale == 0.0f ? 1.0f : model->hparams.f_logit_scale;
}
