// model files and vocabularies

#include "treellama-impl.h"

#include "gguf.h"

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

llama_model * treellama_model_load(const char * path, const llama_model_params * params) {
    return treellama_guard((llama_model *) nullptr, [&] { return llama_model_load_from_file(path, *params); });
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
