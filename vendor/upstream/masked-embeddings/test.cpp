// With masked embeddings, the tokens that are not flagged must not become outputs.
//
// It calls llama_context itself, as other tests do that include private headers; without the fix
// there is no masked form, and what happens is what llama_set_embeddings(ctx, true) does.

#include "../tiny-model.h"

#include "llama-context.h"

#include <utility>

template <typename T>
static auto set_masked(T & ctx, int) -> decltype(ctx.set_embeddings(true, true)) {
    ctx.set_embeddings(true, true);
}

template <typename T>
static void set_masked(T & ctx, long) {
    ctx.set_embeddings(true);
}

static std::vector<float> last_embedding(llama_context * ctx) {
    tiny_decode(ctx, { 1, 2, 3, 4 });
    const float * row = llama_get_embeddings_ith(ctx, -1);
    return row ? std::vector<float>(row, row + 64) : std::vector<float>();
}

int main() {
    llama_context_params params = llama_context_default_params();
    params.pooling_type         = LLAMA_POOLING_TYPE_NONE;
    llama_model *   model       = tiny_model("llama", 2);
    llama_context * all         = tiny_context(model, params);
    llama_context * masked      = tiny_context(model, params);
    llama_set_embeddings(all, true);
    set_masked(*masked, 0);
    const bool is_same  = last_embedding(all) == last_embedding(masked);
    const bool is_alone = llama_get_logits_ith(masked, 0) == nullptr; // it says so in the log
    llama_free(all);
    llama_free(masked);
    llama_model_free(model);
    return tiny_verdict(is_same, "the embedding of a flagged token is the same") |
            tiny_verdict(is_alone, "a token that is not flagged has no row of logits");
}
