#pragma once

// drawing a token by the usual stages, in a few passes over the row

#include "llama.h"

#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

// the stages, in this order: logit bias, penalties, top_k, top_p, min_p, temperature, the draw
typedef struct treellama_draw_params {
    int32_t  penalty_last_n;  // 0: no penalties
    float    penalty_repeat;
    float    penalty_freq;
    float    penalty_present;
    int32_t  top_k;           // 0: off
    float    top_p;           // 1: off
    float    min_p;           // 0: off
    float    temperature;     // 0: the first of the likeliest tokens, nothing is drawn
    uint32_t seed;
} treellama_draw_params;

// keeps what llama.cpp's chain of the same stages keeps, and draws from the same distribution with the same random numbers.
// equal logits stand by token id. Its arithmetic is the same on every CPU
struct treellama_row_sampler;

// NULL if there is no memory
LLAMA_API struct treellama_row_sampler * treellama_row_sampler_init(
        const treellama_draw_params * params, const llama_logit_bias * biases, int32_t n_biases);
LLAMA_API struct treellama_row_sampler * treellama_row_sampler_clone(const struct treellama_row_sampler * sampler);
LLAMA_API void                           treellama_row_sampler_free (struct treellama_row_sampler * sampler);

// forget the tokens, and start the random numbers again
LLAMA_API int32_t treellama_row_sampler_reset(struct treellama_row_sampler * sampler);

// tokens of the text, which penalties count
LLAMA_API int32_t treellama_row_sampler_accept(
        struct treellama_row_sampler * sampler, const llama_token * tokens, int32_t n_tokens);

// draw one token from a row of logits, which is not yet one of the text. TREELLAMA_NO_CANDIDATE if none is possible
//   allowed: may be NULL; otherwise a bit a token, those without are left out
LLAMA_API int32_t treellama_row_sampler_draw(
        struct treellama_row_sampler * sampler, const float * logits, int32_t n_vocab, const uint32_t * allowed,
        llama_token * token);

#ifdef __cplusplus
}
#endif
