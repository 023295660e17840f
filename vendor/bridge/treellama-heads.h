#pragma once

// heads: Medusa's, which guess the next tokens from the hidden state behind the last one

#include "llama.h"

#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

// A head is n_layers blocks x + silu(w x + b) over n_embd channels, then an output matrix. The first block also sees
// tokens, if the file says so: its x is the hidden state, its w x that of the state and the tokens' embeddings, each
// divided by its root mean square, one after another.

enum treellama_heads_sees {
    TREELLAMA_HEADS_SEES_NONE, // the hidden state alone, as Medusa does
    TREELLAMA_HEADS_SEES_ROOT, // the token behind it as well, which is known
    TREELLAMA_HEADS_SEES_PATH, // and all that are guessed before the head's own, as Hydra does
};

struct treellama_heads_facts {
    int32_t n_heads;
    int32_t n_layers;
    int32_t n_embd;
    int32_t n_rows;      // of an output matrix
    int32_t n_deep_rows; // of these, the first, that heads after the first have
    enum treellama_heads_sees sees;
    bool    has_output;    // output matrices of their own, not the model's
    bool    has_shortlist; // a row for some tokens only
    float   logit_scale;
};

struct treellama_heads;

// NULL for a file that is damaged, is no file of heads, or has other sizes than the model
//   model_path: of the model's own file, from which the rows of a shortlist are taken
LLAMA_API struct treellama_heads * treellama_heads_load(const char * path, const char * model_path, const struct llama_model * model);
LLAMA_API void                     treellama_heads_free(struct treellama_heads * heads);

LLAMA_API struct treellama_heads_facts treellama_heads_get_facts(const struct treellama_heads * heads);

// a value of the file's metadata as text; NULL if there is no such key
LLAMA_API const char * treellama_heads_meta(const struct treellama_heads * heads, const char * key);

// the token of each row; n_rows
LLAMA_API void treellama_heads_tokens(const struct treellama_heads * heads, int32_t * tokens);

// logits of one head for n columns
//   hidden [n_embd]               the state that all of them share
//   seen   [n][tokens of a head]  what the head sees: none, the root, or the root and head guesses
//   logits [n][n_rows], or n_deep_rows
LLAMA_API int32_t treellama_heads_logits(
        struct treellama_heads * heads, int32_t n_threads, int32_t head, const float * hidden, const int32_t * seen,
        int32_t n, float * logits);

// the likeliest guesses behind a token that follows a hidden state; returns the number of nodes, parents first
//   top:   children of a node that are considered
//   width: nodes of a level that are followed up, where that takes a product
//   p:     of a node's whole path
LLAMA_API int32_t treellama_heads_grow(
        struct treellama_heads * heads, int32_t n_threads, const float * hidden, llama_token root, int32_t n_nodes,
        int32_t top, int32_t width, double min_p, int32_t * tokens, int32_t * parents, double * p);

// the same for a tree of a given shape: ranks[i] is which of its parent's children node i is, the likeliest is 0
LLAMA_API int32_t treellama_heads_fill(
        struct treellama_heads * heads, int32_t n_threads, const float * hidden, llama_token root, int32_t n_nodes,
        const int32_t * parents, const int32_t * ranks, int32_t * tokens, double * p);

#ifdef __cplusplus
}
#endif
