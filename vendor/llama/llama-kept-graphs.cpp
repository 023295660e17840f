#include "llama-kept-graphs.h"

#include "llama-context.h"
#include "llama-state-chains.h"

#include <algorithm>

static constexpr uint32_t N_TOKENS_OWN = 8;  // larger passes take longer, and their buffers more memory: they share one
static constexpr uint32_t N_TOKENS_MAX = 64;

void llama_kept_graphs::use(llama_context & ctx, uint32_t n_tokens) {
    // one token stays with the prompts, as without kept graphs
    const bool is_small = n_tokens > 1 && n_tokens <= N_TOKENS_MAX;
    const bool is_kept  = is_small && !ctx.graph_reuse_disable && !ctx.cparams.pipeline_parallel;

    const uint32_t key = is_kept ? std::min(n_tokens, N_TOKENS_OWN + 1) : 0;

    if (ctx.cparams.n_rs_seq > 0) {
        llama_state_chains::follow(ctx);
    }
    use_entry(ctx, ctx.cparams.n_rs_seq > 0 ? N_TOKENS_OWN + 2 + key : key);
}

void llama_kept_graphs::keep_states(llama_context & ctx, uint32_t n_rs_seq) {
    ctx.cparams.n_rs_seq = n_rs_seq;
}

std::unique_ptr<llama_adapter_loras> & llama_kept_graphs::loras_of(llama_context & ctx) {
    return ctx.loras;
}

void llama_kept_graphs::reserve(llama_context & ctx) {
    ctx.sched_need_reserve = true;
    ctx.sched_reserve();
}

void llama_kept_graphs::use_entry(llama_context & ctx, uint32_t key) {
    if (key == cur) {
        return;
    }

    // what can fail comes first: the context must keep its scheduler then
    entry & from = entries[cur];
    entry & to   = entries[key];

    if (!to.sched) {
        to.sched.reset(ggml_backend_sched_new(
            ctx.backend_ptrs.data(), ctx.backend_buft.data(), ctx.backend_ptrs.size(), ctx.gf_res_reserve->get_max_nodes(),
            false, ctx.cparams.op_offload));
    }

    // what is still computed must not lose its scheduler
    ggml_backend_sched_synchronize(ctx.sched.get());

    const auto swap_with = [&](entry & other) {
        std::swap(ctx.sched,              other.sched);
        std::swap(ctx.gf_res_prev,        other.gf_res_prev);
        std::swap(ctx.gf_res_prev_active, other.gf_res_prev_active);
    };

    swap_with(from);
    swap_with(to);
    cur = key;
}

void llama_kept_graphs::drop(llama_context & ctx) {
    use_entry(ctx, 0);
    entries.clear();
}
