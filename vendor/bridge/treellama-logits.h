#pragma once

// logits: rows are n_vocab floats, one after another

#include "llama.h"

#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

LLAMA_API void treellama_argmax(const float * logits, int32_t n_rows, int32_t n_vocab, llama_token * tokens);

// the k likeliest tokens of each row, falling, ties by token id, with their logits or, if normalised, their log-probabilities
// under softmax at temperature 1, which takes longer
LLAMA_API int32_t treellama_top_k(
        const float * logits, int32_t n_rows, int32_t n_vocab, int32_t k, bool normalise, llama_token * tokens, float * values);

// natural log of the softmax probability of one token a row
LLAMA_API void treellama_logp(
        const float * logits, int32_t n_rows, int32_t n_vocab, const llama_token * tokens, float * logp);

// both of one row, for one token and the k likeliest, sooner than by two calls
LLAMA_API int32_t treellama_top_logp(
        const float * row, int32_t n_vocab, llama_token token, float * logp,
        int32_t k, llama_token * top_tokens, float * top_logp);

#ifdef __cplusplus
}
#endif
