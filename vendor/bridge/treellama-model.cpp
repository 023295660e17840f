// model files and vocabularies

#include "treellama-impl.h"

#include "gguf.h"
#include "llama-model.h"

#include <cerrno>
#include <cstdio>
#include <cstring>
#include <memory>
#include <stdexcept>
#include <vector>

#ifdef _WIN32
#    define treellama_fseek _fseeki64
#    define treellama_ftell _ftelli64
#else
#    define treellama_fseek fseeko
#    define treellama_ftell ftello
#endif

static int64_t file_size(const char * path) {
    std::unique_ptr<FILE, int (*)(FILE *)> file(ggml_fopen(path, "rb"), fclose);
    if (!file || treellama_fseek(file.get(), 0, SEEK_END) != 0) {
        throw std::runtime_error(std::string("cannot open or seek: ") + strerror(errno));
    }
    return (int64_t) treellama_ftell(file.get());
}

int32_t treellama_gguf_check(const char * path) {
    return treellama_guard(TREELLAMA_EXCEPTION, [&]() -> int32_t {
        const uint64_t n_file = (uint64_t) file_size(path);

        const gguf_init_params params = { /*.no_alloc =*/ true, /*.ctx =*/ nullptr };
        std::unique_ptr<gguf_context, void (*)(gguf_context *)> gguf(gguf_init_from_file(path, params), gguf_free);
        if (!gguf) {
            throw std::runtime_error("the GGUF header or metadata cannot be read");
        }

        const uint64_t data = gguf_get_data_offset(gguf.get());
        for (int64_t i = 0; i < gguf_get_n_tensors(gguf.get()); ++i) {
            const uint64_t offset = gguf_get_tensor_offset(gguf.get(), i);
            const uint64_t size   = gguf_get_tensor_size  (gguf.get(), i);
            if (data > n_file || offset > n_file - data || size > n_file - data - offset) {
                throw std::runtime_error(
                        std::string("tensor '") + gguf_get_tensor_name(gguf.get(), i) + "' ends " +
                        std::to_string(data + offset + size - n_file) + " bytes after the end of the file (" +
                        std::to_string(n_file) + " bytes): the file was cut short");
            }
        }

        return 0;
    });
}

//
// What follows llama.cpp finds out in the middle of a pass only, on the threads that compute it, and ends the process.
//

static void check_norms(const llama_hparams & hparams) {
    for (const float eps : { hparams.f_norm_eps, hparams.f_norm_rms_eps, hparams.f_norm_group_eps }) {
        if (!(eps >= 0.0f)) {
            throw std::runtime_error("the epsilon of a norm is " + std::to_string(eps) + ", it must not be negative");
        }
    }
}

static void check_rope(const llama_model & model) {
    const auto & hparams = model.hparams;
    if (hparams.rope_type == LLAMA_ROPE_TYPE_NONE) {
        return;
    }

    // the attention layers of a hybrid model may do without
    const bool may_be_zero = llama_model_is_hybrid(&model);

    for (uint32_t il = 0; il < hparams.n_layer(); ++il) {
        const uint32_t n_rot  = hparams.n_rot(il);
        const uint32_t n_head = hparams.n_embd_head_k(il);
        if (hparams.n_head_kv(il) > 0 && (n_rot % 2 != 0 || n_rot > n_head || (n_rot == 0 && !may_be_zero))) {
            throw std::runtime_error(
                    "layer " + std::to_string(il) + " rotates " + std::to_string(n_rot) + " of the " +
                    std::to_string(n_head) + " channels of a head; that must be an even number of them");
        }
    }
}

static bool ends_with(const std::string & text, const std::string & end) {
    return text.size() >= end.size() && text.compare(text.size() - end.size(), end.size(), end) == 0;
}

static bool is_addend_or_factor(const std::string & name, const ggml_tensor * tensor) {
    // routers and classifiers of one output are matrices with one row
    const bool is_matrix = name.find("gate_inp") != std::string::npos || name.find("cls.") != std::string::npos;

    return ends_with(name, ".bias") || (ggml_nrows(tensor) == 1 && !is_matrix);
}

static bool can_compute(const std::string & name, const ggml_tensor * tensor) {
    switch (tensor->type) {
        case GGML_TYPE_F32:
            return true;
        case GGML_TYPE_F16:
        case GGML_TYPE_BF16:
            return !is_addend_or_factor(name, tensor);
        case GGML_TYPE_I32:
            return name.find("tid2eid") != std::string::npos; // a table of DeepSeek 4's experts
        case GGML_TYPE_Q8_1: // these two are for activations
        case GGML_TYPE_Q8_K:
            return false;
        default:
            return ggml_is_quantized(tensor->type) && !is_addend_or_factor(name, tensor);
    }
}

static void check_loaded(const llama_model & model) {
    if (model.hparams.vocab_only) {
        return;
    }

    check_norms(model.hparams);
    check_rope(model);

    for (const auto & [name, tensor] : model.tensors_by_name) {
        if (!can_compute(name, tensor)) {
            throw std::runtime_error(
                    "tensor '" + name + "' is of type " + ggml_type_name(tensor->type) +
                    ", with which llama.cpp cannot compute there");
        }
    }
}

llama_model * treellama_model_load(const char * path, const llama_model_params * params) {
    return treellama_guard((llama_model *) nullptr, [&] {
        std::unique_ptr<llama_model, void (*)(llama_model *)> model(
                llama_model_load_from_file(path, *params), llama_model_free);
        if (model) {
            check_loaded(*model);
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

int32_t treellama_tokenize(
        const llama_vocab * vocab,
        const char * text, int32_t n_text,
        llama_token * tokens, int32_t n_tokens_max,
        bool add_special, bool parse_special, bool * failed) {
    *failed = true;
    const int32_t n = treellama_guard((int32_t) 0, [&] {
        const int32_t res = llama_tokenize(vocab, text, n_text, tokens, n_tokens_max, add_special, parse_special);
        *failed = false;
        return res;
    });
    return n;
}

int64_t treellama_pieces(
        const llama_vocab * vocab,
        const llama_token * tokens, int32_t n_tokens, bool special,
        char * buf, int64_t size, int64_t * offsets) {
    return treellama_guard((int64_t) TREELLAMA_EXCEPTION, [&]() -> int64_t {
        std::vector<char> piece(256);
        int64_t           n_bytes = 0;

        for (int32_t i = 0; i < n_tokens; ++i) {
            offsets[i] = n_bytes;

            int32_t n = llama_token_to_piece(vocab, tokens[i], piece.data(), (int32_t) piece.size(), 0, special);
            if (n < 0) {
                piece.resize(-n);
                n = llama_token_to_piece(vocab, tokens[i], piece.data(), (int32_t) piece.size(), 0, special);
            }
            if (n > 0 && n_bytes + n <= size) {
                memcpy(buf + n_bytes, piece.data(), n);
            }
            n_bytes += n > 0 ? n : 0;
        }
        offsets[n_tokens] = n_bytes;

        return n_bytes;
    });
}
