// A model whose layers all have a sliding window must be able to shift its positions.

#include "../tiny-model.h"

int main() {
    llama_model *   model = tiny_model("gemma3", 1);
    llama_context * ctx   = tiny_context(model);
    tiny_decode(ctx, { 1, 2, 3 });
    llama_memory_seq_add(llama_get_memory(ctx), 0, 0, -1, 7);
    tiny_decode(ctx, { 4 }); // the fault is an assertion here
    llama_free(ctx);
    llama_model_free(model);
    return tiny_verdict(true, "a cache without layers can be shifted");
}
