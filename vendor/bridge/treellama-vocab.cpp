// vocabularies

#include "treellama-impl.h"

#include <cstring>
#include <vector>

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
