// what a file of heads says of itself

#include "treellama-heads-impl.h"

#include "llama-impl.h"

#include <vector>

using namespace treellama;

static constexpr int32_t N_HEADS_MAX  = 16;
static constexpr int32_t N_LAYERS_MAX = 16;

treellama_heads::treellama_heads(const std::string & path, const std::string & model_path, const llama_model & model) : model(model) {
    const gguf_file file(path, true);

    // heads run where the output matrix is: hidden states and logits travel no further than the model's own do
    ggml_backend_dev_t device = model.dev_output();
    backend.reset(device ? ggml_backend_dev_init(device, nullptr) : treellama_cpu_backend());
    if (!backend) {
        fail("the model's device cannot be used");
    }

    read_meta(file);
    read_sizes(file);
    read_sees(file);
    read_scale(file);
    read_shortlist(file);
    read_outputs(file);
    read_heads(file, model_path);
}

void treellama_heads::read_meta(const gguf_file & file) {
    for (int64_t i = 0; i < gguf_get_n_kv(file.gguf.get()); ++i) {
        meta[gguf_get_key(file.gguf.get(), i)] = gguf_get_kv_type(file.gguf.get(), i) == GGUF_TYPE_STRING ?
            gguf_get_val_str(file.gguf.get(), i) : gguf_kv_to_str(file.gguf.get(), (int) i);
    }

    const std::string architecture = meta["general.architecture"];
    if (architecture != "medusa") {
        fail("this is no file of heads: its architecture is '" + architecture + "', not 'medusa'");
    }
}

void treellama_heads::read_sizes(const gguf_file & file) {
    facts.n_heads  = file.count("medusa.head_count",  1, N_HEADS_MAX);
    facts.n_layers = file.count("medusa.block_count", 1, N_LAYERS_MAX);
    facts.n_embd   = file.count("medusa.embedding_length", 1, 1 << 20);

    if (facts.n_embd != (int32_t) model.hparams.n_embd_out()) {
        fail("these heads are for hidden states of " + std::to_string(facts.n_embd) + " channels, the model has " +
                std::to_string(model.hparams.n_embd_out()));
    }
}

void treellama_heads::read_sees(const gguf_file & file) {
    const std::string sees = gguf_get_val_str(file.gguf.get(), file.key("medusa.sees", GGUF_TYPE_STRING));
    if (sees == "none") {
        facts.sees = TREELLAMA_HEADS_SEES_NONE;
    } else if (sees == "root") {
        facts.sees = TREELLAMA_HEADS_SEES_ROOT;
    } else if (sees == "path") {
        facts.sees = TREELLAMA_HEADS_SEES_PATH;
    } else {
        fail("'medusa.sees' is '" + sees + "', it must be 'none', 'root' or 'path'");
    }

    if (facts.sees != TREELLAMA_HEADS_SEES_NONE && (!model.tok_embd || model.tok_embd->ne[0] != facts.n_embd)) {
        fail("these heads see tokens, but the model's embeddings have another width");
    }
}

void treellama_heads::read_scale(const gguf_file & file) {
    facts.logit_scale = 1.0f;
    if (gguf_find_key(file.gguf.get(), "medusa.logit_scale") >= 0) {
        facts.logit_scale = gguf_get_val_f32(file.gguf.get(), file.key("medusa.logit_scale", GGUF_TYPE_FLOAT32));
    }
}

void treellama_heads::read_shortlist(const gguf_file & file) {
    const auto * shortlist = file.find("shortlist");
    const int32_t n_vocab  = llama_vocab_n_tokens(llama_model_get_vocab(&model));
    facts.n_rows        = n_vocab;
    facts.has_shortlist = shortlist != nullptr;
    if (!shortlist) {
        return;
    }

    if (shortlist->type != GGML_TYPE_I32 || ggml_n_dims(shortlist) != 1) {
        fail("tensor 'shortlist' must be a row of I32");
    }
    facts.n_rows = (int32_t) shortlist->ne[0];
    tokens.assign((const int32_t *) shortlist->data, (const int32_t *) shortlist->data + facts.n_rows);

    std::vector<bool> is_known(n_vocab, false);
    for (const int32_t token : tokens) {
        if (token < 0 || token >= n_vocab || is_known[token]) {
            fail("the shortlist must hold token ids from 0 to " + std::to_string(n_vocab - 1) + ", each once");
        }
        is_known[token] = true;
    }
}

void treellama_heads::read_outputs(const gguf_file & file) {
    facts.has_output  = file.find("head.0.output.weight") != nullptr;
    facts.n_deep_rows = facts.n_rows;

    if (gguf_find_key(file.gguf.get(), "medusa.deep_rows") >= 0) {
        if (!facts.has_shortlist || facts.has_output || !is_sequential()) {
            fail("'medusa.deep_rows' needs a shortlist, the model's output matrix, and heads that see the path");
        }
        facts.n_deep_rows = file.count("medusa.deep_rows", 1, facts.n_rows);
    }
}
