#pragma once

// chains: tokens behind the text of a recurrent state, of which a part can be taken back

#include "llama.h"

#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

// whether states can be kept behind each token of a pass: with n_rs_seq in the parameters of a context
LLAMA_API bool treellama_chain_supported(const struct llama_model * model);

// most tokens of a chain; 0 if the context has no room for their states
LLAMA_API int32_t treellama_chain_max(const struct llama_context * ctx);

// what the recurrent states of a sequence take; 0 if there are none
LLAMA_API size_t treellama_chain_state_size(const struct llama_context * ctx);

// as treellama_decode, of a batch with chains: each token belongs to one sequence. Unless 0 is returned, all sequences of the
// batch are what they were
LLAMA_API int32_t treellama_chain_decode(struct llama_context * ctx, const struct llama_batch * batch);

// let the first n_keep of the n_tokens that the last pass added to a sequence be its text, and take back the others
//   n_past: the position of the first
LLAMA_API int32_t treellama_chain_commit(
        struct llama_context * ctx, llama_seq_id seq_id, llama_pos n_past, int32_t n_tokens, int32_t n_keep);

#ifdef __cplusplus
}
#endif
