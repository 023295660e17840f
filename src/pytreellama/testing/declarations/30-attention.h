/* treellama-attention.h: one attention op by itself */

struct treellama_attention_params {
    int32_t n_embd_k;
    int32_t n_embd_v;
    int32_t n_head;
    int32_t n_head_kv;
    int32_t n_tokens;
    int32_t n_kv;
    int32_t n_streams;
    int32_t n_order;
    int32_t n_threads;
    enum ggml_type type_k;
    enum ggml_type type_v;
    float scale;
    float max_bias;
    float softcap;
    bool  use_ref;
};

int32_t treellama_attention(const struct treellama_attention_params * params, const float * q, const float * k, const float * v,
    const float * mask, const int32_t * order, const float * sinks, float * out);

int32_t treellama_attention_plain(const struct treellama_attention_params * params, const float * q, const float * k, const float * v,
    const float * mask, const int32_t * order, const float * sinks, float * out);
