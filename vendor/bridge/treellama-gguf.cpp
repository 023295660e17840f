#include "treellama-gguf.h"

#include "ggml-backend.h"
#include "llama.h"

#include <cstring>
#include <stdexcept>
#include <vector>

namespace treellama {

void fail(const std::string & why) {
    throw std::runtime_error(why);
}

//
// files
//

gguf_file::gguf_file(const std::string & path, bool data) {
    const gguf_init_params params = { /*.no_alloc =*/ !data, /*.ctx =*/ &tensors };
    gguf.reset(gguf_init_from_file(path.c_str(), params));
    if (!gguf) {
        fail(path + " cannot be read as GGUF");
    }
}

gguf_file::~gguf_file() {
    ggml_free(tensors);
}

ggml_tensor * gguf_file::find(const std::string & name) const {
    return ggml_get_tensor(tensors, name.c_str());
}

ggml_tensor * gguf_file::get(const std::string & name) const {
    auto * tensor = find(name);
    if (!tensor) {
        fail("there is no tensor '" + name + "'");
    }
    return tensor;
}

int64_t gguf_file::key(const std::string & name, gguf_type type) const {
    const int64_t id = gguf_find_key(gguf.get(), name.c_str());
    if (id < 0 || gguf_get_kv_type(gguf.get(), id) != type) {
        fail("there is no '" + name + "' of type " + gguf_type_name(type));
    }
    return id;
}

int32_t gguf_file::count(const std::string & name, int64_t least, int64_t most) const {
    const int64_t value = gguf_get_val_u32(gguf.get(), key(name, GGUF_TYPE_UINT32));
    if (value < least || value > most) {
        fail("'" + name + "' is " + std::to_string(value) + ", it must be from " + std::to_string(least) + " to " +
                std::to_string(most));
    }
    return (int32_t) value;
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

//
// rows
//

output_rows::output_rows(const std::string & model_path) {
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

bool output_rows::open(const std::string & path, const char * name) {
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

size_t output_rows::row_size() const {
    return ggml_row_size(type, n_embd);
}

void output_rows::read(const int32_t * rows, int32_t n, void * out) const {
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

void to_floats(ggml_type type, const void * data, int64_t n, float * out) {
    if (type == GGML_TYPE_F32) {
        memcpy(out, data, n*sizeof(float));
    } else if (ggml_get_type_traits(type)->to_float) {
        ggml_get_type_traits(type)->to_float(data, out, n);
    } else {
        fail(std::string("values of type ") + ggml_type_name(type) + " cannot be read");
    }
}

void read_embedding(const ggml_tensor * table, int32_t token, float * out) {
    if (token < 0 || token >= table->ne[1]) {
        fail("token " + std::to_string(token) + " has no embedding");
    }

    std::vector<char> row(ggml_row_size(table->type, table->ne[0]));
    ggml_backend_tensor_get(table, row.data(), token*table->nb[1], row.size());
    to_floats(table->type, row.data(), table->ne[0], out);
}

}
