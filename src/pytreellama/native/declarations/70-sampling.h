/* llama.h: samplers */

typedef struct llama_token_data {
    llama_token id;
    float logit;
    float p;
} llama_token_data;

typedef struct llama_logit_bias {
    llama_token token;
    float bias;
} llama_logit_bias;

typedef struct llama_sampler_chain_params {
    bool no_perf;
} llama_sampler_chain_params;

llama_sampler_chain_params llama_sampler_chain_default_params(void);

struct llama_sampler * llama_sampler_chain_init(llama_sampler_chain_params params);
void                   llama_sampler_chain_add (struct llama_sampler * chain, struct llama_sampler * smpl);

void llama_sampler_free(struct llama_sampler * smpl);

struct llama_sampler * llama_sampler_init_greedy     (void);
struct llama_sampler * llama_sampler_init_dist       (uint32_t seed);
struct llama_sampler * llama_sampler_init_top_k      (int32_t k);
struct llama_sampler * llama_sampler_init_top_p      (float p, size_t min_keep);
struct llama_sampler * llama_sampler_init_min_p      (float p, size_t min_keep);
struct llama_sampler * llama_sampler_init_typical    (float p, size_t min_keep);
struct llama_sampler * llama_sampler_init_temp       (float t);
struct llama_sampler * llama_sampler_init_temp_ext   (float t, float delta, float exponent);
struct llama_sampler * llama_sampler_init_xtc        (float p, float t, size_t min_keep, uint32_t seed);
struct llama_sampler * llama_sampler_init_top_n_sigma(float n);
struct llama_sampler * llama_sampler_init_mirostat   (int32_t n_vocab, uint32_t seed, float tau, float eta, int32_t m);
struct llama_sampler * llama_sampler_init_mirostat_v2(uint32_t seed, float tau, float eta);
struct llama_sampler * llama_sampler_init_penalties  (int32_t n_vocab, int32_t penalty_last_n, float penalty_repeat, float penalty_freq, float penalty_present);
struct llama_sampler * llama_sampler_init_logit_bias(int32_t n_vocab, int32_t n_logit_bias, const llama_logit_bias * logit_bias);

const llama_token * llama_vocab_get_suppress_tokens(const struct llama_vocab * vocab, int32_t * n_suppress_tokens);

/* treellama-sampling.h */

struct llama_sampler * treellama_dry_init(
    const struct llama_vocab * vocab, float multiplier, float base, int32_t allowed_length, int32_t last_n,
    const char ** breakers, size_t n_breakers);
struct llama_sampler * treellama_sampler_clone(const struct llama_sampler * sampler);
int32_t                treellama_sampler_reset(struct llama_sampler * sampler);

int32_t treellama_draw(
    struct llama_sampler * chain, const float * logits, int32_t n_vocab, const uint32_t * allowed,
    llama_token_data * scratch, llama_token * token);
int32_t treellama_distribution(
    struct llama_sampler * chain, const float * logits, int32_t n_vocab, const uint32_t * allowed,
    llama_token_data * scratch, bool greedy, double * p);
int32_t treellama_accept(struct llama_sampler * sampler, llama_token token);
int32_t treellama_accept_all(struct llama_sampler * sampler, const llama_token * tokens, int32_t n_tokens);
