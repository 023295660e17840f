/* treellama-draw.h */

typedef struct treellama_draw_params {
    int32_t  penalty_last_n;
    float    penalty_repeat;
    float    penalty_freq;
    float    penalty_present;
    int32_t  top_k;
    float    top_p;
    float    min_p;
    float    temperature;
    uint32_t seed;
} treellama_draw_params;

struct treellama_row_sampler;

struct treellama_row_sampler * treellama_row_sampler_init(
    const treellama_draw_params * params, const llama_logit_bias * biases, int32_t n_biases);
struct treellama_row_sampler * treellama_row_sampler_clone(const struct treellama_row_sampler * sampler);
void                           treellama_row_sampler_free (struct treellama_row_sampler * sampler);
int32_t treellama_row_sampler_reset(struct treellama_row_sampler * sampler);
int32_t treellama_row_sampler_accept(
    struct treellama_row_sampler * sampler, const llama_token * tokens, int32_t n_tokens);
int32_t treellama_row_sampler_draw(
    struct treellama_row_sampler * sampler, const float * logits, int32_t n_vocab, const uint32_t * allowed,
    llama_token * token);
