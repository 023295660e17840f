// The masks of a cache with and of a cache without a sliding window must have different names.

#include "../tiny-model.h"

#include <set>

static bool collect(ggml_tensor * tensor, bool ask, void * userdata) {
    if (ask && tensor->op == GGML_OP_SOFT_MAX && tensor->src[1] != nullptr) {
        ((std::set<std::string> *) userdata)->insert(tensor->src[1]->name);
    }
    return false;
}

int main() {
    std::set<std::string> names;
    llama_context_params  params = llama_context_default_params();
    params.flash_attn_type       = LLAMA_FLASH_ATTN_TYPE_DISABLED;
    params.cb_eval               = collect;
    params.cb_eval_user_data     = &names;

    llama_model *   model = tiny_model("gemma3", 2);
    llama_context * ctx   = tiny_context(model, params);
    tiny_decode(ctx, { 1, 2, 3 });
    for (const std::string & name : names) {
        printf("mask: %s\n", name.c_str());
    }
    llama_free(ctx);
    llama_model_free(model);
    return tiny_verdict(names.size() == 2, "two masks have two names");
}
