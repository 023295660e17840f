#pragma once

// GGUF files, read for what they hold. What is wrong with one is thrown as std::runtime_error

#include "ggml.h"
#include "gguf.h"

#include <cstdint>
#include <cstdio>
#include <memory>
#include <string>

namespace treellama {

[[noreturn]] void fail(const std::string & why);

struct gguf_file {
    ggml_context * tensors = nullptr;

    std::unique_ptr<gguf_context, void (*)(gguf_context *)> gguf { nullptr, gguf_free };

    // data: read the tensors too
    gguf_file(const std::string & path, bool data);
    ~gguf_file();

    // NULL if there is none
    ggml_tensor * find(const std::string & name) const;
    ggml_tensor * get (const std::string & name) const;

    int64_t key  (const std::string & name, gguf_type type) const;
    int32_t count(const std::string & name, int64_t least, int64_t most) const;
};

// rows of a model's output matrix, in the bytes of its file: what is loaded may be laid out otherwise
struct output_rows {
    ggml_type type;
    int64_t   n_embd;
    int64_t   n_rows;

    explicit output_rows(const std::string & model_path);

    size_t row_size() const;
    void   read(const int32_t * rows, int32_t n, void * out) const;

private:
    std::unique_ptr<FILE, int (*)(FILE *)> file { nullptr, fclose };
    uint64_t offset = 0;

    bool open(const std::string & path, const char * name);
};

void to_floats(ggml_type type, const void * data, int64_t n, float * out);

// a token's row of a table of embeddings, wherever its backend keeps it
void read_embedding(const ggml_tensor * table, int32_t token, float * out);

}
