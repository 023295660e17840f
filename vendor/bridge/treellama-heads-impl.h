#pragma once

// what the files of the heads share

#include "treellama-impl.h"
#include "treellama-gguf.h"

#include "ggml-cpp.h"
#include "llama-model.h"

#include <map>
#include <memory>
#include <string>
#include <tuple>
#include <vector>

namespace treellama {

struct head_layer {
    ggml_tensor * weight = nullptr;
    ggml_tensor * bias   = nullptr;
};

struct head {
    std::vector<head_layer> layers;
    ggml_tensor * output = nullptr;
};

// the graph of some heads, each for as many columns
struct head_graph {
    ggml_context_ptr ctx;
    ggml_gallocr_t   allocr = nullptr;
    ggml_cgraph *    gf     = nullptr;

    ggml_tensor * hidden = nullptr;
    ggml_tensor * seen   = nullptr;
    ggml_tensor * logits = nullptr;

    ~head_graph() {
        ggml_gallocr_free(allocr);
    }
};

// the likeliest tokens behind a node, falling
struct head_guesses {
    std::vector<int32_t> tokens;
    std::vector<float>   logp;
};

}

struct treellama_heads {
    const llama_model & model;

    treellama_heads_facts facts = {};

    std::map<std::string, std::string> meta;
    std::vector<int32_t>         tokens; // of rows; empty if each token has one
    std::vector<treellama::head> heads;

    // guards what follows, which is of the pass that runs
    std::mutex busy;

    treellama_heads(const std::string & path, const std::string & model_path, const llama_model & model);

    // heads that see the tokens guessed before run one level after another
    bool is_sequential() const {
        return facts.sees == TREELLAMA_HEADS_SEES_PATH;
    }

    // tokens that a head sees
    int32_t n_seen(int32_t head) const {
        switch (facts.sees) {
            case TREELLAMA_HEADS_SEES_ROOT: return 1;
            case TREELLAMA_HEADS_SEES_PATH: return 1 + head;
            default:                        return 0;
        }
    }

    int32_t n_rows_of(int32_t head) const {
        return head == 0 ? facts.n_rows : facts.n_deep_rows;
    }

    // logits of n_heads heads from first on, each for n_cols columns, until the next run
    //   hidden: one state, shared by all columns
    //   seen:   n_seen(first) tokens a column
    const float * run(int32_t n_threads, int32_t first, int32_t n_heads, int32_t n_cols, const float * hidden, const int32_t * seen);

    // the likeliest tokens of rows of logits, each of n_values
    std::vector<treellama::head_guesses> rows_of(const float * logits, int32_t n, int32_t n_values, int32_t top) const;

private:
    ggml_backend_ptr backend;
    ggml_context_ptr ctx;
    std::vector<ggml_backend_buffer_ptr> buffers;

    std::map<std::tuple<int32_t, int32_t, int32_t>, std::unique_ptr<treellama::head_graph>> graphs;

    std::vector<float> logits;
    std::vector<float> seen;

    // treellama-heads-file.cpp
    void read_meta     (const treellama::gguf_file & file);
    void read_sizes    (const treellama::gguf_file & file);
    void read_sees     (const treellama::gguf_file & file);
    void read_scale    (const treellama::gguf_file & file);
    void read_shortlist(const treellama::gguf_file & file);
    void read_outputs  (const treellama::gguf_file & file);

    // treellama-heads-weights.cpp
    ggml_type     row_type(ggml_type own) const;
    ggml_tensor * copied(const ggml_tensor * from, bool is_matrix, const void * data = nullptr);
    void          read_heads(const treellama::gguf_file & file, const std::string & model_path);
    std::pair<ggml_tensor *, ggml_tensor *> shared_outputs(const std::string & model_path);
    std::pair<ggml_tensor *, ggml_tensor *> shortlist_outputs(const std::string & model_path);
    treellama::head read_head(const treellama::gguf_file & file, int32_t i);

    // treellama-heads-graph.cpp
    treellama::head_graph & get_graph(int32_t first, int32_t n_heads, int32_t n_cols);
    ggml_tensor * build_logits(ggml_context * ctx, const treellama::head_graph & graph, int32_t first, int32_t n_heads) const;
    void embed(const int32_t * tokens, int32_t n, float * out) const;
};
