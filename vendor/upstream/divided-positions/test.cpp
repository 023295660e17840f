// Positions that are multiplied and divided by the same number must leave the logits as they were.

#include "../tiny-model.h"

static std::vector<float> next_logits(llama_model * model, bool divide) {
    llama_context * ctx = tiny_context(model);
    tiny_decode(ctx, { 10, 11, 12 });
    if (divide) {
        llama_memory_t memory = llama_get_memory(ctx);
        llama_memory_seq_add(memory, 0, 2, 3, 4); // 0 1 2 -> 0 1 6
        llama_memory_seq_add(memory, 0, 1, 2, 2); // 0 1 6 -> 0 3 6
        llama_memory_seq_div(memory, 0, 0, -1, 3); // 0 3 6 -> 0 1 2
    }
    tiny_decode(ctx, { 13 });
    const float *      logits = llama_get_logits_ith(ctx, -1);
    std::vector<float> row(logits, logits + TINY_N_VOCAB);
    llama_free(ctx);
    return row;
}

int main() {
    llama_model *            model      = tiny_model("llama", 1);
    const std::vector<float> plain      = next_logits(model, false);
    const std::vector<float> divided    = next_logits(model, true);
    float                    difference = 0.0f;
    for (size_t i = 0; i < plain.size(); ++i) {
        difference = std::fmax(difference, std::fabs(plain[i] - divided[i]));
    }
    llama_model_free(model);
    printf("largest difference of a logit: %g\n", difference);
    return tiny_verdict(difference < 0.01f, "divided positions turn the keys to where they stand");
}
