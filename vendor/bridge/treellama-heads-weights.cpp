// the weights of heads: of their file, and rows of the model's output matrix

#include "treellama-heads-impl.h"

#include <algorithm>
#include <cmath>
#include <new>
#include <vector>

using namespace treellama;

//
// checks
//

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
// rows of the output matrix
//

// what the file asks for, if that is smaller than the model's own type
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

// the output matrices that all heads share: of the first head, and of those after it
std::pair<ggml_tensor *, ggml_tensor *> treellama_heads::shortlist_outputs(const std::string & model_path) {
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

    const auto first_rows = [&](int32_t n_rows) {
        ggml_context_ptr scratch { ggml_init({ ggml_tensor_overhead(), nullptr, true }) };
        return copied(ggml_new_tensor_2d(scratch.get(), type, facts.n_embd, n_rows), true, data.data());
    };
    ggml_tensor * all = first_rows(facts.n_rows);
    // a copy: where rows are packed, a part of them is no matrix
    return { all, facts.n_deep_rows < facts.n_rows ? first_rows(facts.n_deep_rows) : all };
}

std::pair<ggml_tensor *, ggml_tensor *> treellama_heads::shared_outputs(const std::string & model_path) {
    if (facts.has_shortlist) {
        return shortlist_outputs(model_path);
    }

    ggml_tensor * output = model.output ? model.output : model.tok_embd;
    if (output->ne[0] != facts.n_embd || output->ne[1] != facts.n_rows) {
        fail("the model's output matrix does not fit its hidden states and vocabulary");
    }
    return { output, output };
}

//
// heads
//

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

    std::pair<ggml_tensor *, ggml_tensor *> shared;
    if (!facts.has_output) {
        shared = shared_outputs(model_path);
    }

    for (int32_t i = 0; i < facts.n_heads; ++i) {
        heads.push_back(read_head(file, i));
        if (!facts.has_output) {
            heads.back().output = i == 0 ? shared.first : shared.second;
        }
    }
}

head treellama_heads::read_head(const gguf_file & file, int32_t i) {
    const std::string name = "head." + std::to_string(i) + ".";

    head res;
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

        res.layers.push_back({ copied(weight, true), copied(bias, false) });
    }

    if (facts.has_output) {
        const ggml_tensor * output = file.get(name + "output.weight");
        require_shape(output, facts.n_embd, facts.n_rows);
        require_finite(output);
        res.output = copied(output, true);
    }

    return res;
}
