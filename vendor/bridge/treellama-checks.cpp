// what a model file may say: checked before llama.cpp would end the process over it

#include "treellama-impl.h"

#include "gguf.h"
#include "llama-arch.h"
#include "llama-model-loader.h"
#include "llama-model.h"

#include <cerrno>
#include <cstdint>
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

// gguf compares each name with all before it: more than these would take minutes, and no model has so many
constexpr uint64_t n_names_max = 32768;

// bytes of a file whose header counts no more tensors and values than that
static int64_t checked_size(const char * path) {
    std::unique_ptr<FILE, int (*)(FILE *)> file(ggml_fopen(path, "rb"), fclose);

    struct { uint32_t magic, version; uint64_t n_tensors, n_values; } header = {};
    if (file && fread(&header, sizeof(header), 1, file.get()) == 1 &&
            (header.n_tensors > n_names_max || header.n_values > n_names_max)) {
        throw std::runtime_error(
                "the header counts " + std::to_string(header.n_tensors) + " tensors and " +
                std::to_string(header.n_values) + " values; at most " + std::to_string(n_names_max) + " are read");
    }

    if (!file || treellama_fseek(file.get(), 0, SEEK_END) != 0) {
        throw std::runtime_error(std::string("cannot open or seek: ") + strerror(errno));
    }
    return (int64_t) treellama_ftell(file.get());
}

int32_t treellama_gguf_check(const char * path) {
    return treellama_guard(TREELLAMA_EXCEPTION, [&]() -> int32_t {
        const uint64_t n_file = (uint64_t) checked_size(path);

        const gguf_init_params params = { /*.no_alloc =*/ true, /*.ctx =*/ nullptr };
        std::unique_ptr<gguf_context, void (*)(gguf_context *)> gguf(gguf_init_from_file(path, params), gguf_free);
        if (!gguf) {
            throw std::runtime_error("the GGUF header or metadata cannot be read");
        }

        const uint64_t data = gguf_get_data_offset(gguf.get());
        for (int64_t i = 0; i < gguf_get_n_tensors(gguf.get()); ++i) {
            // llama.cpp divides by the sides of tensors
            if (gguf_get_tensor_size(gguf.get(), i) == 0) {
                throw std::runtime_error(
                        std::string("tensor '") + gguf_get_tensor_name(gguf.get(), i) + "' has no values");
            }

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
// hyper-parameters: llama.cpp divides by what follows while it makes tensors and graphs
//

static void require_count(const char * name, uint32_t value) {
    if (value == 0) {
        throw std::runtime_error(std::string(name) + " is 0, it must be at least 1");
    }
}

static bool has_heads(llm_arch arch) {
    return !llm_arch_is_recurrent(arch) && !llm_arch_is_hybrid(arch) && arch != LLM_ARCH_WAVTOKENIZER_DEC;
}

// before an architecture reads its own
void treellama_check_base_hparams(const llama_model & model, llama_model_loader & ml) {
    require_count("embedding_length", model.hparams.n_embd);

    if (has_heads(model.arch)) {
        require_count("attention.head_count", model.hparams.n_head());
    }

    uint32_t interval = 1;
    ml.get_key(LLM_KV_FULL_ATTENTION_INTERVAL, interval, false);
    require_count("full_attention_interval", interval);
}

// where the width of an expert is not given, it is the width of all divided by the number in use
static void check_expert_width(const llama_hparams & hparams, uint32_t il) {
    if (hparams.n_ff_exp(il) == 0 && hparams.n_expert_used(il) == 0) {
        throw std::runtime_error(
                "layer " + std::to_string(il) + " has neither expert_feed_forward_length nor expert_used_count");
    }
}

static void check_arch_hparams(llm_arch arch, const llama_hparams & hparams) {
    switch (arch) {
        case LLM_ARCH_FALCON_H1:
        case LLM_ARCH_GRANITE_HYBRID:
        case LLM_ARCH_MAMBA2:
        case LLM_ARCH_NEMOTRON_H:
        case LLM_ARCH_NEMOTRON_H_MOE:
        case LLM_ARCH_QWEN35:
        case LLM_ARCH_QWEN35MOE:
        case LLM_ARCH_QWEN3NEXT:
        case LLM_ARCH_QWEN4EXP:
            require_count("ssm.group_count",    hparams.ssm_n_group);
            require_count("ssm.time_step_rank", hparams.ssm_dt_rank);
            break;
        case LLM_ARCH_PLAMO2:
            require_count("ssm.time_step_rank", hparams.ssm_dt_rank);
            break;
        case LLM_ARCH_RWKV6:
        case LLM_ARCH_RWKV6QWEN2:
        case LLM_ARCH_RWKV7:
        case LLM_ARCH_ARWKV7:
            require_count("wkv.head_size", hparams.wkv_head_size);
            require_count("embedding_length / wkv.head_size", hparams.n_embd/hparams.wkv_head_size);
            break;
        case LLM_ARCH_DEEPSEEK4:
            require_count("attention.output_group_count", hparams.dsv4_o_group_count);
            break;
        case LLM_ARCH_GROVEMOE:
            require_count("experts_per_group", hparams.n_group_experts);
            break;
        default:
            break;
    }

    switch (arch) {
        case LLM_ARCH_GLM4_MOE:
        case LLM_ARCH_GROVEMOE:
        case LLM_ARCH_LLADA_MOE:
        case LLM_ARCH_MELLUM:
        case LLM_ARCH_QWEN2MOE:
        case LLM_ARCH_QWEN35MOE:
        case LLM_ARCH_QWEN3MOE:
        case LLM_ARCH_QWEN3NEXT:
        case LLM_ARCH_QWEN3VLMOE:
        case LLM_ARCH_QWEN4EXP:
        case LLM_ARCH_RND1:
            check_expert_width(hparams, 0);
            break;
        case LLM_ARCH_NEMOTRON_H:
        case LLM_ARCH_NEMOTRON_H_MOE:
            for (uint32_t il = 0; hparams.n_expert > 0 && il < hparams.n_layer_all; ++il) {
                if (!hparams.is_recr(il) && hparams.n_head_kv(il) == 0) {
                    check_expert_width(hparams, il);
                }
            }
            break;
        default:
            break;
    }
}

void treellama_check_hparams(const llama_model & model) {
    check_arch_hparams(model.arch, model.hparams);
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

// RoPE of several positions divides by the sum of the sections, and asserts that there is one that fits
static void check_rope_sections(const llama_hparams & hparams) {
    if (hparams.n_pos_per_embd() == 1) {
        return;
    }

    int64_t n_sections = 0;
    bool    is_valid   = false;
    for (size_t i = 0; i < 4; ++i) {
        const int64_t section = hparams.rope_sections[i];
        n_sections += section >= 0 ? section : INT32_MAX;
        is_valid    = is_valid || (i < 3 && section > 0);
    }

    for (uint32_t il = 0; il < hparams.n_layer(); ++il) {
        if (hparams.n_head_kv(il) > 0 && (!is_valid || n_sections > hparams.n_embd_head_k(il))) {
            throw std::runtime_error(
                    "the rope.dimension_sections must not be negative, the first three not all 0, and together at "
                    "most the " + std::to_string(hparams.n_embd_head_k(il)) + " channels of a head");
        }
    }
}

// a table of experts by token
static void check_expert_table(const std::string & name, const ggml_tensor * tensor, uint32_t n_expert) {
    std::vector<int32_t> experts(ggml_nelements(tensor));
    ggml_backend_tensor_get(tensor, experts.data(), 0, ggml_nbytes(tensor));

    for (const int32_t expert : experts) {
        if (expert < 0 || (uint32_t) expert >= n_expert) {
            throw std::runtime_error(
                    "tensor '" + name + "' names expert " + std::to_string(expert) + " of " + std::to_string(n_expert));
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

// what the ops of recurrent layers read as floats, whatever the type says
static bool is_of_state(const std::string & name) {
    for (const char * part : { "ssm_conv1d", "shortconv.conv", "time_mix_first", "time_mix_lerp", "channel_mix_lerp" }) {
        if (name.find(part) != std::string::npos) {
            return true;
        }
    }
    return ends_with(name, ".ssm_a") || ends_with(name, ".ssm_d");
}

static bool can_compute(const std::string & name, const ggml_tensor * tensor) {
    if (is_of_state(name)) {
        return tensor->type == GGML_TYPE_F32;
    }
    if (name == "d2t") {
        return tensor->type == GGML_TYPE_I64; // the target's token for each token of an EAGLE-3 model
    }

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

// rows of logits are written where these tokens say
static void check_draft_tokens(const llama_model & model) {
    if (!model.d2t) {
        return;
    }

    std::vector<int64_t> tokens(ggml_nelements(model.d2t));
    ggml_backend_tensor_get(model.d2t, tokens.data(), 0, ggml_nbytes(model.d2t));

    const int64_t n_vocab = model.vocab.n_tokens();
    for (const int64_t token : tokens) {
        if (token < 0 || token >= n_vocab) {
            throw std::runtime_error(
                    "tensor 'd2t' names token " + std::to_string(token) + " of a vocabulary of " + std::to_string(n_vocab));
        }
    }
}

void treellama_check_loaded(const llama_model & model) {
    if (model.hparams.vocab_only) {
        return;
    }

    check_norms(model.hparams);
    check_rope(model);
    check_rope_sections(model.hparams);

    for (const auto & [name, tensor] : model.tensors_by_name) {
        if (!can_compute(name, tensor)) {
            throw std::runtime_error(
                    "tensor '" + name + "' is of type " + ggml_type_name(tensor->type) +
                    ", with which llama.cpp cannot compute there");
        }
        if (tensor->type == GGML_TYPE_I32) {
            check_expert_table(name, tensor, model.hparams.n_expert);
        }
    }
    check_draft_tokens(model);
}
