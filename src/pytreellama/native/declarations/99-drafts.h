/* treellama-drafts.h */

#define TREELLAMA_MTP_NONE       ...
#define TREELLAMA_MTP_LOADED     ...
#define TREELLAMA_MTP_NOT_LOADED ...
#define TREELLAMA_MTP_NO_GRAPH   ...

int32_t treellama_mtp_state(const struct llama_model * model);
int32_t treellama_target_layers(const struct llama_model * model, int32_t * layers, int32_t n_max);

int32_t treellama_features_keep(struct llama_context * ctx, const int32_t * layers, int32_t n_layers);
int32_t treellama_features(
    struct llama_context * ctx, const int32_t * layers, int32_t n_layers, const int32_t * tokens, int32_t n_tokens,
    float * out);

void    treellama_draft_states_keep(struct llama_context * ctx);
int32_t treellama_draft_states(struct llama_context * ctx, int32_t n_rows, float * out);
int32_t treellama_draft_encode(struct llama_context * ctx, const float * features, int32_t n_rows, float * out);
