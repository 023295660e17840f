// heads that guess the next tokens from a hidden state (Medusa, arXiv 2401.10774), and from the tokens guessed before
// (Hydra, arXiv 2402.05109)

#include "treellama-heads-impl.h"

#include <algorithm>
#include <cstring>
#include <new>

using namespace treellama;

std::vector<head_guesses> treellama_heads::rows_of(const float * rows, int32_t n, int32_t n_values, int32_t top) const {
    const int32_t k = std::min(top, n_values);

    std::vector<head_guesses> res(n);
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
