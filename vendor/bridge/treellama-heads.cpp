// heads that guess the next tokens from a hidden state (Medusa, arXiv 2401.10774), and from the tokens guessed before
// (Hydra, arXiv 2402.05109)

#include "treellama-impl.h"

#include "ggml-cpp.h"
#include "ggml-cpu.h"
#include "gguf.h"
#include "llama-context.h"
#include "llama-impl.h"
#include "llama-model.h"

#include <algorithm>
#include <cmath>
#include <cstdio>
#include <cstring>
#include <map>
#include <memory>
#include <stdexcept>
#include <string>
#include <tuple>
#include <vector>

static constexpr int32_t N_HEADS_MAX  = 16;
static constexpr int32_t N_LAYERS_MAX = 16;

//
// files
//

[[noreturn]] static void fail(const std::string & why) {
    throw std::runtime_error(why);
}

namespace {

struct gguf_file {
    ggml_context * tensors = nullptr;

    std::unique_ptr<gguf_context, void (*)(gguf_context *)> gguf { nullptr, gguf_free };

    // data: read the tensors too
    gguf_file(const std::string & path, bool data) {
        const gguf_init_params params = { /*.no_alloc =*/ !data, /*.ctx =*/ &tensors };
        gguf.reset(gguf_init_from_file(path.c_str(), params));
        if (!gguf) {
            fail(path + " cannot be read as GGUF");
        }
    }

    ~gguf_file() {
        ggml_free(tensors);
    }

    ggml_tensor * find(const std::string & name) const {
        return ggml_get_tensor(tensors, name.c_str());
    }

    ggml_tensor * get(const std::string & name) const {
        auto * tensor = find(name);
        if (!tensor) {
            fail("there is no tensor '" + name + "'");
        }
        return tensor;
    }

    int64_t key(const std::string & name, gguf_type type) const {
        const int64_t id = gguf_find_key(gguf.get(), name.c_str());
        if (id < 0 || gguf_get_kv_type(gguf.get(), id) != type) {
            fail("there is no '" + name + "' of type " + gguf_type_name(type));
        }
        return id;
    }

    int32_t count(const std::string & name, int64_t least, int64_t most) const {
        const int64_t value = gguf_get_val_u32(gguf.get(), key(name, GGUF_TYPE_UINT32));
        if (value < least || value > most) {
            fail("'" + name + "' is " + std::to_string(value) + ", it must be from " + std::to_string(least) + " to " +
                    std::to_string(most));
        }
        return (int32_t) value;
    }
};

}

// the parts of a model that was split, or the one file that it is
static std::vector<std::string> model_parts(const std::string & path) {
    std::vector<std::string> res { path };

    const gguf_file file(path, false);
    const int64_t id = gguf_find_key(file.gguf.get(), "split.count");
    const int     n  = id < 0 ? 1 : gguf_get_val_u16(file.gguf.get(), id);

    std::vector<char> prefix(path.size() + 1), part(path.size() + 64);
    for (int i = 0; n > 1 && i < n; ++i) {
        if (i == 0 && llama_split_prefix(prefix.data(), prefix.size(), path.c_str(), 0, n) == 0) {
            fail(path + " is a part of a split model, but not named as its first");
        }
        llama_split_path(part.data(), part.size(), prefix.data(), i, n);
        res.resize(i);
        res.push_back(part.data());
    }

    return res;
}

namespace {

// rows of a model's output matrix, in the bytes of its file: what is loaded may be laid out otherwise
struct output_rows {
    ggml_type type;
    int64_t   n_embd;
    int64_t   n_rows;

    std::unique_ptr<FILE, int (*)(FILE *)> file { nullptr, fclose };
    uint64_t offset = 0;

    explicit output_rows(const std::string & model_path) {
        const auto parts = model_parts(model_path);
        // where a model has no such matrix it uses its embeddings
        for (const char * name : { "output.weight", "token_embd.weight" }) {
            for (const auto & part : parts) {
                if (open(part, name)) {
                    return;
                }
            }
        }
        fail(model_path + " has neither an output matrix nor embeddings");
    }

    bool open(const std::string & path, const char * name) {
        const gguf_file part(path, false);
        const int64_t id = gguf_find_tensor(part.gguf.get(), name);
        if (id < 0) {
            return false;
        }

        const auto * tensor = part.get(name);
        type   = tensor->type;
        n_embd = tensor->ne[0];
        n_rows = tensor->ne[1];
        offset = gguf_get_data_offset(part.gguf.get()) + gguf_get_tensor_offset(part.gguf.get(), id);

        file.reset(ggml_fopen(path.c_str(), "rb"));
        if (!file) {
            fail("cannot open " + path);
        }
        return true;
    }

    size_t row_size() const {
        return ggml_row_size(type, n_embd);
    }

    void read(const int32_t * rows, int32_t n, void * out) const {
        for (int32_t i = 0; i < n; ++i) {
            if (rows[i] < 0 || rows[i] >= n_rows) {
                fail("row " + std::to_string(rows[i]) + " of an output matrix of " + std::to_string(n_rows) + " was asked for");
            }
            const auto at = (long long) (offset + (uint64_t) rows[i]*row_size());
#ifdef _WIN32
            const bool found = _fseeki64(file.get(), at, SEEK_SET) == 0;
#else
            const bool found = fseeko(file.get(), at, SEEK_SET) == 0;
#endif
            if (!found || fread((char *) out + i*row_size(), row_size(), 1, file.get()) != 1) {
                fail("the model's file ends before its output matrix does");
            }
        }
    }
};

}

static void to_floats(ggml_type type, const void * data, int64_t n, float * out) {
    if (type == GGML_TYPE_F32) {
        memcpy(out, data, n*sizeof(float));
    } else if (ggml_get_type_traits(type)->to_float) {
        ggml_get_type_traits(type)->to_float(data, out, n);
    } else {
        fail(std::string("values of type ") + ggml_type_name(type) + " cannot be read");
    }
}

// a token's row of a table of embeddings, wherever its backend keeps it
static void read_embedding(const ggml_tensor * table, int32_t token, float * out) {
    if (token < 0 || token >= table->ne[1]) {
        fail("token " + std::to_string(token) + " has no embedding");
    }

    std::vector<char> row(ggml_row_size(table->type, table->ne[0]));
    ggml_backend_tensor_get(table, row.data(), token*table->nb[1], row.size());
    to_floats(table->type, row.data(), table->ne[0], out);
}

static void require_shape(const ggml_tensor * tensor, int64_t n0, int64_t n1) {
    if (tensor->ne[0] != n0 || tensor->ne[1] != n1 || ggml_nelements(tensor) != n0*n1) {
        fail(std::string("tensor '") + tensor->name + "' has shape " + std::to_string(tensor->ne[0]) + " x " +
                std::to_string(ggml_nelements(tensor)/tensor->ne[0]) + ", it must be " + std::to_string(n0) + " x " +
                std::to_string(n1));
    }
}

static void require_finite(const ggml_tensor * tensor) {
    const int64_t n = ggml_nelements(tensor);

    std::vector<float> values(n);
    to_floats(tensor->type, tensor->data, n, values.data());

    if (!std::all_of(values.begin(), values.end(), [](float x) { return std::isfinite(x); })) {
        fail(std::string("tensor '") + tensor->name + "' has weights that are NaN or infinite");
    }
}

//
// heads
//

namespace {

struct layer {
    ggml_tensor * weight = nullptr;
    ggml_tensor * bias   = nullptr;
};

struct head {
    std::vector<layer> layers;
    ggml_tensor * output = nullptr;
};

// heads from first on, each for n_cols columns
struct pass {
    ggml_context_ptr ctx;
    ggml_gallocr_t   allocr = nullptr;
    ggml_cgraph *    gf     = nullptr;

    ggml_tensor * hidden = nullptr;
    ggml_tensor * seen   = nullptr;
    ggml_tensor * logits = nullptr;

    ~pass() {
        ggml_gallocr_free(allocr);
    }
};

// the likeliest tokens behind a node, falling
struct guesses {
    std::vector<int32_t> tokens;
    std::vector<float>   logp;
};

}

struct treellama_heads {
    const llama_model & model;

    treellama_heads_facts facts = {};

    std::map<std::string, std::string> meta;
    std::vector<int32_t> tokens; // of rows; empty if each token has one
    std::vector<head>    heads;

    ggml_backend_ptr backend;
    ggml_context_ptr ctx;
    std::vector<ggml_backend_buffer_ptr> buffers;

    std::map<std::tuple<int32_t, int32_t, int32_t>, std::unique_ptr<pass>> passes;

    // of the pass that runs
    std::mutex         busy;
    std::vector<float> logits;
    std::vector<float> seen;

    treellama_heads(const std::string & path, const std::string & model_path, const llama_model & model);

    int32_t n_seen(int32_t head) const {
        switch (facts.sees) {
            case TREELLAMA_HEADS_SEES_ROOT: return 1;
            case TREELLAMA_HEADS_SEES_PATH: return 1 + head;
            default:                        return 0;
        }
    }

    bool is_sequential() const {
        return facts.sees == TREELLAMA_HEADS_SEES_PATH;
    }

    // of the rows of a shortlist: what the file asks for, if that is smaller than the model's own
    ggml_type row_type(ggml_type own) const;

    void read_facts(const gguf_file & file);
    void read_heads(const gguf_file & file, const std::string & model_path);

    ggml_tensor * copied(const ggml_tensor * from, bool is_matrix, const void * data = nullptr);

    pass & get_pass(int32_t first, int32_t n_heads, int32_t n_cols);
    const float * run(int32_t n_threads, int32_t first, int32_t n_heads, int32_t n_cols, const float * hidden, const int32_t * seen);

    void embed(const int32_t * tokens, int32_t n, float * out) const;

    int32_t n_rows_of(int32_t head) const {
        return head == 0 ? facts.n_rows : facts.n_deep_rows;
    }

    // the likeliest tokens of rows of logits, each of n_values
    std::vector<guesses> rows_of(const float * logits, int32_t n, int32_t n_values, int32_t top) const;
};

static int32_t n_vocab_of(const llama_model & model) {
    return llama_vocab_n_tokens(llama_model_get_vocab(&model));
}

treellama_heads::treellama_heads(const std::string & path, const std::string & model_path, const llama_model & model) : model(model) {
    const gguf_file file(path, true);

    // heads run where the output matrix is: hidden states and logits travel no further than the model's own do
    ggml_backend_dev_t device = model.dev_output();
    backend.reset(device ? ggml_backend_dev_init(device, nullptr) : treellama_cpu_backend());
    if (!backend) {
        fail("the model's device cannot be used");
    }

    read_facts(file);
    read_heads(file, model_path);
}

void treellama_heads::read_facts(const gguf_file & file) {
    for (int64_t i = 0; i < gguf_get_n_kv(file.gguf.get()); ++i) {
        meta[gguf_get_key(file.gguf.get(), i)] = gguf_get_kv_type(file.gguf.get(), i) == GGUF_TYPE_STRING ?
            gguf_get_val_str(file.gguf.get(), i) : gguf_kv_to_str(file.gguf.get(), (int) i);
    }

    const std::string architecture = meta["general.architecture"];
    if (architecture != "medusa") {
        fail("this is no file of heads: its architecture is '" + architecture + "', not 'medusa'");
    }

    facts.n_heads  = file.count("medusa.head_count",  1, N_HEADS_MAX);
    facts.n_layers = file.count("medusa.block_count", 1, N_LAYERS_MAX);
    facts.n_embd   = file.count("medusa.embedding_length", 1, 1 << 20);

    if (facts.n_embd != (int32_t) model.hparams.n_embd_out()) {
        fail("these heads are for hidden states of " + std::to_string(facts.n_embd) + " channels, the model has " +
                std::to_string(model.hparams.n_embd_out()));
    }

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

    facts.logit_scale = 1.0f;
    if (gguf_find_key(file.gguf.get(), "medusa.logit_scale") >= 0) {
        facts.logit_scale = gguf_get_val_f32(file.gguf.get(), file.key("medusa.logit_scale", GGUF_TYPE_FLOAT32));
    }

    const auto * shortlist = file.find("shortlist");
    const int32_t n_vocab  = n_vocab_of(model);
    facts.n_rows        = n_vocab;
    facts.has_shortlist = shortlist != nullptr;

    if (shortlist) {
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

    facts.has_output  = file.find("head.0.output.weight") != nullptr;
    facts.n_deep_rows = facts.n_rows;

    if (gguf_find_key(file.gguf.get(), "medusa.deep_rows") >= 0) {
        if (!shortlist || facts.has_output || !is_sequential()) {
            fail("'medusa.deep_rows' needs a shortlist, the model's output matrix, and heads that see the path");
        }
        facts.n_deep_rows = file.count("medusa.deep_rows", 1, facts.n_rows);
    }
}

ggml_type treellama_heads::row_type(ggml_type own) const {
    const auto it = meta.find("medusa.row_type");
    if (it == meta.end()) {
        return own;
    }

    for (const ggml_type type : { GGML_TYPE_F32, GGML_TYPE_F16, GGML_TYPE_Q8_0, GGML_TYPE_Q5_1, GGML_TYPE_Q4_1 }) {
        if (it->second == ggml_type_name(type)) {
            const bool fits = facts.n_embd % ggml_blck_size(type) == 0;
            return fits && ggml_row_size(type, facts.n_embd) < ggml_row_size(own, facts.n_embd) ? type : own;
        }
    }
    fail("'medusa.row_type' is '" + it->second + "', it must be f32, f16, q8_0, q5_1 or q4_1");
}

static std::vector<char> requantised(ggml_type from, ggml_type to, const std::vector<char> & rows, int64_t n_embd, int64_t n_rows) {
    std::vector<float> values(n_embd*n_rows);
    for (int64_t i = 0; i < n_rows; ++i) {
        to_floats(from, rows.data() + i*ggml_row_size(from, n_embd), n_embd, values.data() + i*n_embd);
    }

    std::vector<char> res(n_rows*ggml_row_size(to, n_embd));
    ggml_quantize_chunk(to, values.data(), res.data(), 0, n_rows, n_embd, nullptr);
    return res;
}

// a tensor of the heads' own in a buffer of the backend's
ggml_tensor * treellama_heads::copied(const ggml_tensor * from, bool is_matrix, const void * data) {
    ggml_tensor * res = ggml_new_tensor(ctx.get(), from->type, ggml_n_dims(from), from->ne);

    ggml_backend_dev_t device = ggml_backend_get_device(backend.get());
    ggml_backend_buffer_type_t type = ggml_backend_dev_buffer_type(device);
    if (is_matrix) {
        ggml_context_ptr scratch { ggml_init({ 4*ggml_tensor_overhead(), nullptr, true }) };
        ggml_tensor * x = ggml_new_tensor_2d(scratch.get(), GGML_TYPE_F32, from->ne[0], 1);
        type = treellama_weight_buffer_type(device, ggml_mul_mat(scratch.get(), res, x), true);
    }

    const size_t size = ggml_backend_buft_get_alloc_size(type, res);
    buffers.emplace_back(ggml_backend_buft_alloc_buffer(type, size + ggml_backend_buft_get_alignment(type)));
    if (!buffers.back()) {
        throw std::bad_alloc();
    }
    ggml_backend_buffer_set_usage(buffers.back().get(), GGML_BACKEND_BUFFER_USAGE_WEIGHTS);

    ggml_tallocr talloc = ggml_tallocr_new(buffers.back().get());
    if (ggml_tallocr_alloc(&talloc, res) != GGML_STATUS_SUCCESS) {
        throw std::bad_alloc();
    }
    ggml_backend_tensor_set(res, data ? data : from->data, 0, ggml_nbytes(res));

    return res;
}

void treellama_heads::read_heads(const gguf_file & file, const std::string & model_path) {
    const size_t n_tensors = facts.n_heads*(2*facts.n_layers + 1) + 2;
    ctx.reset(ggml_init({ n_tensors*ggml_tensor_overhead(), nullptr, true }));

    ggml_tensor * shared = nullptr;
    ggml_tensor * deep   = nullptr;
    if (!facts.has_output && facts.has_shortlist) {
        const output_rows output(model_path);
        if (output.n_embd != facts.n_embd) {
            fail("the model's output matrix has rows of " + std::to_string(output.n_embd) + " values");
        }

        std::vector<char> data(output.row_size()*facts.n_rows);
        output.read(tokens.data(), facts.n_rows, data.data());

        const ggml_type type = row_type(output.type);
        if (type != output.type) {
            data = requantised(output.type, type, data, facts.n_embd, facts.n_rows);
        }

        ggml_context_ptr scratch { ggml_init({ ggml_tensor_overhead(), nullptr, true }) };
        shared = copied(ggml_new_tensor_2d(scratch.get(), type, facts.n_embd, facts.n_rows), true, data.data());
        if (facts.n_deep_rows < facts.n_rows) {
            // a copy: where rows are packed, a part of them is no matrix
            ggml_reset(scratch.get());
            deep = copied(ggml_new_tensor_2d(scratch.get(), type, facts.n_embd, facts.n_deep_rows), true, data.data());
        }
    } else if (!facts.has_output) {
        shared = model.output ? model.output : model.tok_embd;
        if (shared->ne[0] != facts.n_embd || shared->ne[1] != facts.n_rows) {
            fail("the model's output matrix does not fit its hidden states and vocabulary");
        }
    }

    for (int32_t i = 0; i < facts.n_heads; ++i) {
        const std::string name = "head." + std::to_string(i) + ".";

        head one;
        for (int32_t l = 0; l < facts.n_layers; ++l) {
            const std::string layer_name = name + "block." + std::to_string(l) + ".";
            const ggml_tensor * weight = file.get(layer_name + "weight");
            const ggml_tensor * bias   = file.get(layer_name + "bias");

            require_shape(weight, (int64_t) facts.n_embd*(l == 0 ? 1 + n_seen(i) : 1), facts.n_embd);
            require_shape(bias, facts.n_embd, 1);
            if (bias->type != GGML_TYPE_F32) {
                fail(std::string("tensor '") + bias->name + "' must be F32");
            }
            require_finite(weight);
            require_finite(bias);

            one.layers.push_back({ copied(weight, true), copied(bias, false) });
        }

        one.output = i > 0 && deep ? deep : shared;
        if (facts.has_output) {
            const ggml_tensor * output = file.get(name + "output.weight");
            require_shape(output, facts.n_embd, facts.n_rows);
            require_finite(output);
            one.output = copied(output, true);
        }

        heads.push_back(std::move(one));
    }
}

//
// passes
//

static ggml_tensor * beside(ggml_context * ctx, ggml_tensor * left, ggml_tensor * right) {
    return left ? ggml_concat(ctx, left, right, 1) : right;
}

pass & treellama_heads::get_pass(int32_t first, int32_t n_heads, int32_t n_cols) {
    auto & res = passes[std::make_tuple(first, n_heads, n_cols)];
    if (res) {
        return *res;
    }
    res = std::make_unique<pass>();

    const size_t n_nodes = 16 + n_heads*(4*facts.n_layers + 8);
    res->ctx.reset(ggml_init({ n_nodes*ggml_tensor_overhead() + ggml_graph_overhead_custom(n_nodes, false), nullptr, true }));
    ggml_context * c = res->ctx.get();

    const int32_t n_tokens = n_seen(first);
    res->hidden = ggml_new_tensor_2d(c, GGML_TYPE_F32, facts.n_embd, n_cols);
    ggml_set_input(res->hidden);
    if (n_tokens > 0) {
        res->seen = ggml_new_tensor_2d(c, GGML_TYPE_F32, (int64_t) n_tokens*facts.n_embd, n_cols);
        ggml_set_input(res->seen);
    }
    ggml_tensor * input = res->seen ? ggml_concat(c, res->hidden, res->seen, 0) : res->hidden;

    ggml_tensor * states = nullptr;
    ggml_tensor * logits = nullptr;
    for (int32_t i = first; i < first + n_heads; ++i) {
        ggml_tensor * state = res->hidden;
        for (size_t l = 0; l < heads[i].layers.size(); ++l) {
            const layer & one = heads[i].layers[l];
            ggml_tensor * inner = ggml_mul_mat(c, one.weight, l == 0 ? input : state);
            state = ggml_add(c, ggml_silu(c, ggml_add(c, inner, one.bias)), state);
        }
        if (facts.has_output) {
            logits = beside(c, logits, ggml_mul_mat(c, heads[i].output, state));
        } else {
            states = beside(c, states, state);
        }
    }
    // one product for all heads: the output matrix is read once
    if (!facts.has_output) {
        logits = ggml_mul_mat(c, heads[first].output, states);
    }
    if (facts.logit_scale != 1.0f) {
        logits = ggml_scale(c, logits, facts.logit_scale);
    }
    res->logits = logits;
    ggml_set_output(logits);

    res->gf = ggml_new_graph_custom(c, n_nodes, false);
    ggml_build_forward_expand(res->gf, logits);

    res->allocr = ggml_gallocr_new(ggml_backend_get_default_buffer_type(backend.get()));
    if (!ggml_gallocr_alloc_graph(res->allocr, res->gf)) {
        res.reset();
        throw std::bad_alloc();
    }

    return *res;
}

void treellama_heads::embed(const int32_t * ids, int32_t n, float * out) const {
    for (int32_t i = 0; i < n; ++i) {
        float * values = out + (int64_t) i*facts.n_embd;
        read_embedding(model.tok_embd, ids[i], values);

        double sum = 0.0;
        for (int32_t j = 0; j < facts.n_embd; ++j) {
            sum += (double) values[j]*values[j];
        }
        const float scale = (float) (1.0/std::max(std::sqrt(sum/facts.n_embd), 1e-6));
        for (int32_t j = 0; j < facts.n_embd; ++j) {
            values[j] *= scale;
        }
    }
}

// hidden: one state, shared by all columns. seen: n_seen(first) tokens a column
const float * treellama_heads::run(
        int32_t n_threads, int32_t first, int32_t n_heads, int32_t n_cols, const float * hidden, const int32_t * seen_tokens) {
    pass & p = get_pass(first, n_heads, n_cols);

    const size_t n_state = facts.n_embd*sizeof(float);
    for (int32_t i = 0; i < n_cols; ++i) {
        ggml_backend_tensor_set(p.hidden, hidden, i*n_state, n_state);
    }
    if (p.seen) {
        seen.resize(ggml_nelements(p.seen));
        embed(seen_tokens, n_cols*n_seen(first), seen.data());
        ggml_backend_tensor_set(p.seen, seen.data(), 0, ggml_nbytes(p.seen));
    }

    {
        treellama_turn turn(n_threads);
        if (ggml_backend_is_cpu(backend.get())) {
            treellama_cpu_function<ggml_backend_set_n_threads_t>("ggml_backend_set_n_threads")(backend.get(), n_threads);
            treellama_cpu_function<decltype(ggml_backend_cpu_set_threadpool) *>("ggml_backend_cpu_set_threadpool")(backend.get(), turn.pool);
        }
        if (ggml_backend_graph_compute(backend.get(), p.gf) != GGML_STATUS_SUCCESS) {
            fail("the heads could not be computed");
        }
    }

    logits.resize(ggml_nelements(p.logits));
    ggml_backend_tensor_get(p.logits, logits.data(), 0, ggml_nbytes(p.logits));

    return logits.data();
}

std::vector<guesses> treellama_heads::rows_of(const float * rows, int32_t n, int32_t n_values, int32_t top) const {
    const int32_t k = std::min(top, n_values);

    std::vector<guesses> res(n);
    for (int32_t i = 0; i < n; ++i) {
        res[i].tokens.resize(k);
        res[i].logp  .resize(k);
        if (treellama_top_k(rows + (int64_t) i*n_values, 1, n_values, k, true, res[i].tokens.data(), res[i].logp.data()) != 0) {
            throw std::bad_alloc();
        }
        for (int32_t & token : res[i].tokens) {
            token = tokens.empty() ? token : tokens[token];
        }
    }
    return res;
}

treellama_heads * treellama_heads_load(const char * path, const char * model_path, const llama_model * model) {
    return treellama_guard((treellama_heads *) nullptr, [&] {
        return new treellama_heads(path, model_path, *model);
    });
}

void treellama_heads_free(treellama_heads * heads) {
    delete heads;
}

treellama_heads_facts treellama_heads_get_facts(const treellama_heads * heads) {
    return heads->facts;
}

const char * treellama_heads_meta(const treellama_heads * heads, const char * key) {
    const auto it = heads->meta.find(key);
    return it == heads->meta.end() ? nullptr : it->second.c_str();
}

void treellama_heads_tokens(const treellama_heads * heads, int32_t * tokens) {
    for (int32_t i = 0; i < heads->facts.n_rows; ++i) {
        tokens[i] = heads->tokens.empty() ? i : heads->tokens[i];
    }
}

int32_t treellama_heads_logits(
        treellama_heads * heads, int32_t n_threads, int32_t head, const float * hidden, const int32_t * seen, int32_t n,
        float * logits) {
    return treellama_catch(TREELLAMA_EXCEPTION, [&] {
        std::lock_guard<std::mutex> lock(heads->busy);
        memcpy(logits, heads->run(n_threads, head, 1, n, hidden, seen), (size_t) n*heads->n_rows_of(head)*sizeof(float));
        return 0;
    });
}

//
// trees
//

namespace {

struct node {
    double  p;
    int32_t token;
    int32_t parent;
    int32_t depth;
    int32_t row; // of what is guessed behind it; -1 if that is not known
};

// a tree that hangs on a root and grows level by level
struct growing {
    treellama_heads & heads;
    const int32_t     n_threads;
    const float *     hidden;
    const llama_token root;
    const int32_t     top;

    std::vector<node>    nodes;
    std::vector<guesses> rows; // the first is what is guessed behind the root

    growing(treellama_heads & heads, int32_t n_threads, const float * hidden, llama_token root, int32_t top) :
        heads(heads), n_threads(n_threads), hidden(hidden), root(root), top(top) {
        // heads that see no guesses have all their rows at once
        const int32_t n_first = heads.is_sequential() ? 1 : heads.facts.n_heads;
        rows = heads.rows_of(heads.run(n_threads, 0, n_first, 1, hidden, &root), n_first, heads.facts.n_rows, top);
    }

    // nodes of one depth get to know what is guessed behind them
    void take_up(const std::vector<int32_t> & taken) {
        const int32_t n    = (int32_t) taken.size();
        const int32_t head = nodes[taken[0]].depth + 1;

        if (!heads.is_sequential()) {
            for (const int32_t i : taken) {
                nodes[i].row = head;
            }
            return;
        }

        // widths are powers of two, so that there are few graphs
        int32_t n_cols = 1;
        while (n_cols < n) {
            n_cols *= 2;
        }

        const int32_t n_seen = heads.n_seen(head);
        std::vector<int32_t> seen(n_cols*n_seen, root);
        for (int32_t i = 0; i < n; ++i) {
            int32_t at = taken[i];
            for (int32_t j = n_seen - 1; j > 0; --j) {
                seen[i*n_seen + j] = nodes[at].token;
                at = nodes[at].parent;
            }
        }

        const float * logits = heads.run(n_threads, head, 1, n_cols, hidden, seen.data());
        for (guesses & row : heads.rows_of(logits, n, heads.n_rows_of(head), top)) {
            rows.push_back(std::move(row));
        }
        for (int32_t i = 0; i < n; ++i) {
            nodes[taken[i]].row = (int32_t) rows.size() - n + i;
        }
    }

    node child(int32_t parent, int32_t rank) const {
        const bool      is_root = parent < 0;
        const guesses & row     = rows[is_root ? 0 : nodes[parent].row];
        return {
            /*.p      =*/ (is_root ? 1.0 : nodes[parent].p)*std::exp((double) row.logp[rank]),
            /*.token  =*/ row.tokens[rank],
            /*.parent =*/ parent,
            /*.depth  =*/ is_root ? 0 : nodes[parent].depth + 1,
            /*.row    =*/ -1,
        };
    }

    void add_children(int32_t parent, double min_p) {
        const int32_t n = (int32_t) rows[parent < 0 ? 0 : nodes[parent].row].tokens.size();
        for (int32_t rank = 0; rank < n; ++rank) {
            const node next = child(parent, rank);
            if (!(next.p >= min_p && next.p > 0.0)) {
                break; // they fall
            }
            nodes.push_back(next);
        }
    }

    // the n likeliest nodes, falling; of equal ones the earlier, so that none comes before its parent
    std::vector<int32_t> likeliest(int32_t n) const {
        std::vector<int32_t> res(nodes.size());
        for (size_t i = 0; i < res.size(); ++i) {
            res[i] = (int32_t) i;
        }
        const auto likelier = [this](int32_t a, int32_t b) {
            return nodes[a].p != nodes[b].p ? nodes[a].p > nodes[b].p : a < b;
        };
        const size_t n_kept = std::min(res.size(), (size_t) n);
        std::partial_sort(res.begin(), res.begin() + n_kept, res.end(), likelier);
        res.resize(n_kept);
        return res;
    }
};

}

int32_t treellama_heads_grow(
        treellama_heads * heads, int32_t n_threads, const float * hidden, llama_token root, int32_t n_nodes, int32_t top,
        int32_t width, double min_p, int32_t * tokens, int32_t * parents, double * p) {
    return treellama_catch(TREELLAMA_EXCEPTION, [&] {
        std::lock_guard<std::mutex> lock(heads->busy);
        growing tree(*heads, n_threads, hidden, root, top);
        tree.add_children(-1, min_p);

        // below what is not among the likeliest now, nothing can get in: a path is no likelier than its beginning
        for (int32_t depth = 0; depth + 1 < heads->facts.n_heads; ++depth) {
            std::vector<int32_t> taken;
            for (const int32_t i : tree.likeliest(n_nodes)) {
                if (tree.nodes[i].depth == depth && !(heads->is_sequential() && (int32_t) taken.size() == width)) {
                    taken.push_back(i);
                }
            }
            if (taken.empty()) {
                break;
            }
            tree.take_up(taken);
            for (const int32_t i : taken) {
                tree.add_children(i, min_p);
            }
        }

        const std::vector<int32_t> best = tree.likeliest(n_nodes);
        std::vector<int32_t> place(tree.nodes.size(), -1);
        for (size_t i = 0; i < best.size(); ++i) {
            const node & one = tree.nodes[best[i]];
            place[best[i]] = (int32_t) i;
            tokens [i] = one.token;
            parents[i] = one.parent < 0 ? -1 : place[one.parent];
            p      [i] = one.p;
        }
        return (int32_t) best.size();
    });
}

int32_t treellama_heads_fill(
        treellama_heads * heads, int32_t n_threads, const float * hidden, llama_token root, int32_t n_nodes,
        const int32_t * parents, const int32_t * ranks, int32_t * tokens, double * p) {
    return treellama_catch(TREELLAMA_EXCEPTION, [&] {
        std::lock_guard<std::mutex> lock(heads->busy);
        growing tree(*heads, n_threads, hidden, root, 1 + *std::max_element(ranks, ranks + n_nodes));

        std::vector<bool> has_children(n_nodes, false);
        for (int32_t i = 0; i < n_nodes; ++i) {
            if (parents[i] >= 0) {
                has_children[parents[i]] = true;
            }
        }

        // parents come first, level by level
        for (int32_t begin = 0, end = 0; begin < n_nodes; begin = end) {
            std::vector<int32_t> taken;
            for (end = begin; end < n_nodes && parents[end] < begin; ++end) {
                tree.nodes.push_back(tree.child(parents[end], ranks[end]));
                if (has_children[end]) {
                    taken.push_back(end);
                }
            }
            if (!taken.empty()) {
                tree.take_up(taken);
            }
        }

        for (int32_t i = 0; i < n_nodes; ++i) {
            tokens[i] = tree.nodes[i].token;
            p     [i] = tree.nodes[i].p;
        }
        return n_nodes;
    });
}

//
// what training needs of a model
//

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
