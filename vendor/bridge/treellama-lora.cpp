// LoRA adapters: loading them, and which of them a pass uses

#include "treellama-impl.h"

#include "llama-adapter.h"
#include "llama-context.h"
#include "llama-lora-sets.h"
#include "llama-model.h"

#include <cmath>
#include <memory>
#include <stdexcept>
#include <string>

struct treellama_lora_sets {
    llama_lora_sets sets;
};

static bool can_multiply(ggml_type type) {
    switch (type) {
        case GGML_TYPE_F32:
        case GGML_TYPE_F16:
        case GGML_TYPE_BF16:
            return true;
        case GGML_TYPE_Q8_1: // these two are for activations
        case GGML_TYPE_Q8_K:
            return false;
        default:
            return ggml_is_quantized(type);
    }
}

// what llama.cpp finds out in the middle of a pass only, and ends the process
static void check_pair(const std::string & name, const ggml_tensor & weight, const ggml_tensor & a, const ggml_tensor & b) {
    for (const auto * t : { &a, &b }) {
        if (!can_multiply(t->type)) {
            throw std::runtime_error("tensor '" + std::string(t->name) + "' is of type " + ggml_type_name(t->type));
        }
        if (t->ne[2] != weight.ne[2] || t->ne[3] != weight.ne[3]) {
            throw std::runtime_error("tensor '" + std::string(t->name) + "' has not as many matrices as '" + name + "'");
        }
    }
    // of token embeddings, rows of A are looked up, and multiplied by B as it is
    const bool is_embd = name == "token_embd.weight";
    if (is_embd && a.ne[0] != b.ne[0]) {
        throw std::runtime_error("the tensors for '" + name + "' have different ranks");
    }
}

static void check_adapter(const llama_model & model, const llama_adapter_lora & adapter) {
    if (!std::isfinite(adapter.alpha)) {
        throw std::runtime_error("adapter.lora.alpha is not a number");
    }
    if (!adapter.alora_invocation_tokens.empty()) {
        throw std::runtime_error("it is an activated LoRA, which begins in the middle of a text; that is not supported");
    }
    if (adapter.ab_map.empty()) {
        throw std::runtime_error("it changes no weights");
    }
    for (const auto & [name, pair] : adapter.ab_map) {
        check_pair(name, *model.get_tensor(name.c_str()), *pair.a, *pair.b);
    }
}

llama_adapter_lora * treellama_lora_load(llama_model * model, const char * path) {
    return treellama_guard((llama_adapter_lora *) nullptr, [&] {
        std::unique_ptr<llama_adapter_lora, void (*)(llama_adapter_lora *)> adapter(
                llama_adapter_lora_init(model, path), llama_adapter_lora_free);
        if (adapter) {
            check_adapter(*model, *adapter);
        }
        return adapter.release();
    });
}

treellama_lora_sets * treellama_lora_sets_init(void) {
    return new treellama_lora_sets;
}

void treellama_lora_sets_free(treellama_lora_sets * sets) {
    delete sets;
}

int32_t treellama_lora_use(
        treellama_lora_sets * sets, llama_context * ctx, llama_adapter_lora ** adapters, const float * scales, int32_t n) {
    return treellama_guard(TREELLAMA_EXCEPTION, [&] {
        sets->sets.use(*ctx, adapters, scales, n);
        return 0;
    });
}
