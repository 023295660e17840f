/* treellama-weights.h: what training needs of a model */

int64_t treellama_norms         (const struct llama_model * model, float * out);
int32_t treellama_output_rows   (const char * model_path, const int32_t * rows, int32_t n, int64_t n_embd, float * out);
int32_t treellama_embedding_rows(const struct llama_model * model, const int32_t * tokens, int32_t n, float * out);
float   treellama_logit_scale   (const struct llama_model * model);
