/* treellama-encode.h */

bool    treellama_model_is_encoder(const struct llama_model * model);
int32_t treellama_model_n_class   (const struct llama_model * model);

int32_t treellama_encode      (struct llama_context * ctx, const struct llama_batch * batch);
int32_t treellama_class_scores(struct llama_context * ctx, int32_t n_seq, float * out);
