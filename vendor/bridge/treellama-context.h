#pragma once

// contexts: threads, passes, hidden states

#include "llama.h"

#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

// whether a token's logits depend on its own text alone, to the last bit, on CPUs whose products do not depend on their
// width: no product of two things that were computed in the pass, all attention in the order of positions
LLAMA_API bool treellama_is_batch_invariant(const struct llama_context * ctx);

// whether the hidden states of a pass are as wide as llama.cpp copies them: of models that carry several streams of states,
// it copies n_embd_out floats a token out of a tensor that has n_embd
LLAMA_API bool treellama_hidden_can_keep(const struct llama_context * ctx);

// params->abort_callback may be treellama_abort_if with an int32_t flag as data
LLAMA_API struct llama_context * treellama_context_init(
        struct llama_model * model, const struct llama_context_params * params);

// after the pass that may still be under way; ctx may be NULL
LLAMA_API void treellama_context_free(struct llama_context * ctx);

// threads that wait between passes, shared by all contexts that have as many and take turns; without them, ggml makes
// and frees a pool for every graph. NULL if this build has no CPU backend, or with an error if the threads cannot be started. Release them
// after the context's end.
struct treellama_threads;

LLAMA_API struct treellama_threads * treellama_threads_attach (struct llama_context * ctx);
LLAMA_API void                       treellama_threads_release(struct treellama_threads * threads);

// true once *(int32_t *) flag is not 0: an abort callback that needs no Python
LLAMA_API bool treellama_abort_if(void * flag);

// as llama_decode, or TREELLAMA_EXCEPTION
LLAMA_API int32_t treellama_decode(struct llama_context * ctx, const struct llama_batch * batch);

// one token of one sequence, at the position after its last, with logits: a plain step in one call
LLAMA_API int32_t treellama_decode_one(struct llama_context * ctx, llama_token token, llama_seq_id seq_id);

// keep the hidden states behind the output norm of the tokens whose logits are asked for
LLAMA_API void treellama_hidden_keep(struct llama_context * ctx, bool keep);

// those of the last pass behind some rows of logits, n_embd_out floats each
LLAMA_API int32_t treellama_hidden(struct llama_context * ctx, const int32_t * rows, int32_t n_rows, float * out);

#ifdef __cplusplus
}
#endif
