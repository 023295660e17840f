/* llama.h: contexts */

enum llama_flash_attn_type {
    LLAMA_FLASH_ATTN_TYPE_AUTO,
    LLAMA_FLASH_ATTN_TYPE_DISABLED,
    LLAMA_FLASH_ATTN_TYPE_ENABLED,
};

enum llama_pooling_type {
    LLAMA_POOLING_TYPE_UNSPECIFIED,
    LLAMA_POOLING_TYPE_NONE,
    LLAMA_POOLING_TYPE_MEAN,
    LLAMA_POOLING_TYPE_CLS,
    LLAMA_POOLING_TYPE_LAST,
    LLAMA_POOLING_TYPE_RANK,
    ...
};

enum llama_context_type {
    LLAMA_CONTEXT_TYPE_DEFAULT,
    LLAMA_CONTEXT_TYPE_MTP,
    ...
};

struct llama_context_params {
    uint32_t n_ctx;
    uint32_t n_batch;
    uint32_t n_ubatch;
    uint32_t n_seq_max;
    uint32_t n_rs_seq;
    int32_t  n_threads;
    int32_t  n_threads_batch;
    enum llama_context_type    ctx_type;
    enum llama_pooling_type    pooling_type;
    enum llama_flash_attn_type flash_attn_type;
    float    rope_freq_base;
    float    rope_freq_scale;
    enum ggml_type type_k;
    enum ggml_type type_v;
    ggml_abort_callback abort_callback;
    void *              abort_callback_data;
    bool embeddings;
    bool offload_kqv;
    bool no_perf;
    bool swa_full;
    bool kv_unified;
    struct llama_context * ctx_other;
    ...;
};

struct llama_context_params llama_context_default_params(void);

uint32_t llama_n_ctx    (const struct llama_context * ctx);
uint32_t llama_n_batch  (const struct llama_context * ctx);
uint32_t llama_n_ubatch (const struct llama_context * ctx);
uint32_t llama_n_seq_max(const struct llama_context * ctx);

int32_t llama_n_threads        (struct llama_context * ctx);
int32_t llama_n_threads_batch  (struct llama_context * ctx);

typedef struct llama_batch {
    int32_t n_tokens;

    llama_token  *  token;
    float        *  embd;
    llama_pos    *  pos;
    int32_t      *  n_seq_id;
    llama_seq_id ** seq_id;
    int8_t       *  logits;
} llama_batch;

float * llama_get_logits        (struct llama_context * ctx);
float * llama_get_embeddings_ith(struct llama_context * ctx, int32_t i);

typedef struct llama_memory_i * llama_memory_t;
llama_memory_t llama_get_memory(const struct llama_context * ctx);
llama_pos      llama_memory_seq_pos_min(llama_memory_t mem, llama_seq_id seq_id);
llama_pos      llama_memory_seq_pos_max(llama_memory_t mem, llama_seq_id seq_id);

struct llama_perf_context_data {
    int32_t n_reused;
    ...;
};
struct llama_perf_context_data llama_perf_context(const struct llama_context * ctx);

/* treellama-context.h */

struct llama_context * treellama_context_init(
    struct llama_model * model, const struct llama_context_params * params);
void treellama_context_free(struct llama_context * ctx);
bool treellama_is_batch_invariant(const struct llama_context * ctx);

struct treellama_threads * treellama_threads_attach (struct llama_context * ctx);
void                       treellama_threads_release(struct treellama_threads * threads);

bool treellama_abort_if(void * flag);

int32_t treellama_decode(struct llama_context * ctx, const struct llama_batch * batch);
int32_t treellama_decode_one(struct llama_context * ctx, llama_token token, llama_seq_id seq_id);

bool    treellama_hidden_can_keep(const struct llama_context * ctx);
void    treellama_hidden_keep(struct llama_context * ctx, bool keep);
int32_t treellama_hidden(struct llama_context * ctx, const int32_t * rows, int32_t n_rows, float * out);
