// A random model of a few kilobytes, made in memory: nothing has to be downloaded to see a fault.

#pragma once

#include "ggml-backend.h"
#include "gguf.h"
#include "llama.h"

#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <functional>
#include <random>
#include <string>
#include <vector>

static const int64_t TINY_N_VOCAB = 64;

static void tiny_fill(ggml_tensor * tensor, void * /*userdata*/) {
    const bool                      is_norm = std::string(tensor->name).find("norm") != std::string::npos;
    std::mt19937                    generator((uint32_t) std::hash<std::string>()(tensor->name));
    std::normal_distribution<float> normal(0.0f, 2.0f / std::sqrt((float) tensor->ne[0]));
    std::vector<float>              values(ggml_nelements(tensor));
    for (float & value : values) {
        value = is_norm ? 1.0f : normal(generator);
    }
    ggml_backend_tensor_set(tensor, values.data(), 0, ggml_nbytes(tensor));
}

// arch is "llama", or "gemma3", of whose layers every second one, from the first on, has a sliding window
static llama_model * tiny_model(const std::string & arch, uint32_t n_layer) {
    gguf_context * meta    = gguf_init_empty();
    const auto     set_u32 = [&](const char * key, uint32_t value) {
        gguf_set_val_u32(meta, (arch + "." + key).c_str(), value);
    };
    gguf_set_val_str(meta, "general.architecture", arch.c_str());
    gguf_set_val_str(meta, "tokenizer.ggml.model", "no_vocab");
    set_u32("vocab_size", TINY_N_VOCAB);
    set_u32("context_length", 256);
    set_u32("embedding_length", 64);
    set_u32("feed_forward_length", 128);
    set_u32("block_count", n_layer);
    set_u32("attention.head_count", 2);
    set_u32("attention.head_count_kv", 2);
    set_u32("attention.key_length", 32);
    set_u32("attention.value_length", 32);
    set_u32("rope.dimension_count", 32);
    set_u32("attention.sliding_window", 8);
    set_u32("attention.sliding_window_pattern", 2);
    gguf_set_val_f32(meta, (arch + ".attention.layer_norm_rms_epsilon").c_str(), 1e-5f);

    llama_model_params params = llama_model_default_params();
    params.n_gpu_layers       = 0;
    llama_model * model       = llama_model_init_from_user(meta, tiny_fill, nullptr, params);
    gguf_free(meta);
    if (model == nullptr) {
        fprintf(stderr, "the model cannot be made\n");
        exit(2);
    }
    return model;
}

static llama_context * tiny_context(llama_model * model, llama_context_params params = llama_context_default_params()) {
    params.n_ctx           = 256;
    params.n_threads       = 1;
    params.n_threads_batch = 1;
    llama_context * ctx    = llama_init_from_model(model, params);
    if (ctx == nullptr) {
        fprintf(stderr, "the context cannot be made\n");
        exit(2);
    }
    return ctx;
}

// positions follow those that are in the cache; the last token alone is flagged
static void tiny_decode(llama_context * ctx, std::vector<llama_token> tokens) {
    const int status = llama_decode(ctx, llama_batch_get_one(tokens.data(), (int32_t) tokens.size()));
    if (status != 0) {
        fprintf(stderr, "llama_decode returns %d\n", status);
        exit(2);
    }
}

static int tiny_verdict(bool is_right, const char * claim) {
    printf("%s: %s\n", is_right ? "ok" : "FAIL", claim);
    return is_right ? 0 : 1;
}
