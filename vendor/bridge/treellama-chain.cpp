// chains: tokens behind the text of a recurrent state, of which a part can be taken back

#include "treellama-impl.h"

#include "llama-arch.h"
#include "llama-context.h"
#include "llama-impl.h"
#include "llama-model.h"
#include "llama-state-chains.h"

bool treellama_chain_supported(const llama_model * model) {
    // deepseek4 has compressed cells in the place of states
    return llm_arch_supports_rs_rollback(model->arch) && model->arch != LLM_ARCH_DEEPSEEK4;
}

int32_t treellama_chain_max(const llama_context * ctx) {
    return llama_state_chains::n_max(ctx->get_memory());
}

size_t treellama_chain_state_size(const llama_context * ctx) {
    return llama_state_chains::n_bytes_of_state(ctx->get_memory());
}

static bool has_own_tokens(const llama_context * ctx, const llama_batch & batch) {
    for (int32_t i = 0; i < batch.n_tokens; ++i) {
        const llama_seq_id seq_id = batch.seq_id[i][0];
        if (batch.n_seq_id[i] != 1 || seq_id < 0 || seq_id >= (llama_seq_id) ctx->n_seq_max()) {
            LLAMA_LOG_ERROR("token %d of the batch must belong to one sequence, from 0 to %d: others share a pass with no chain\n",
                    i, (int) ctx->n_seq_max() - 1);
            return false;
        }
    }
    return true;
}

namespace {

// whatever ends a pass, no half of a chain stays behind
struct chain_pass {
    llama_context * ctx;

    llama_state_chains::pass pass;

    bool success = false;

    chain_pass(llama_context * ctx, const llama_batch & batch) : ctx(ctx) {
        treellama_turn     turn(ctx);
        treellama_no_abort whole;
        pass.begin(*ctx, batch);
    }

    ~chain_pass() {
        treellama_turn     turn(ctx);
        treellama_no_abort whole;
        pass.end(*ctx, success);
    }
};

}

int32_t treellama_chain_decode(llama_context * ctx, const llama_batch * batch) {
    return treellama_catch(TREELLAMA_EXCEPTION, [&] {
        if (!has_own_tokens(ctx, *batch)) {
            return -1;
        }

        chain_pass pass(ctx, *batch);

        const int32_t status = treellama_decode_checked(ctx, *batch);
        pass.success = status == 0;

        return status;
    });
}

int32_t treellama_chain_commit(
        llama_context * ctx, llama_seq_id seq_id, llama_pos n_past, int32_t n_tokens, int32_t n_keep) {
    return treellama_catch(TREELLAMA_EXCEPTION, [&] {
        treellama_turn     turn(ctx);
        treellama_no_abort whole; // a part of it is no text

        llama_state_chains::roll_back(*ctx, seq_id, n_past, n_tokens, n_keep);
        return 0;
    });
}
