/* llama.h: model files */

typedef bool (*llama_progress_callback)(float progress, void * user_data);

extern "Python" bool pytreellama_progress(float progress, void * user_data);

enum llama_load_mode {
    LLAMA_LOAD_MODE_AUTO,
    LLAMA_LOAD_MODE_NONE,
    LLAMA_LOAD_MODE_MMAP,
    LLAMA_LOAD_MODE_MLOCK,
    LLAMA_LOAD_MODE_MMAP_MLOCK,
    ...
};

enum llama_split_mode {
    LLAMA_SPLIT_MODE_NONE,
    LLAMA_SPLIT_MODE_LAYER,
    LLAMA_SPLIT_MODE_ROW,
    ...
};

struct llama_model_tensor_buft_override {
    const char * pattern;
    ggml_backend_buffer_type_t buft;
};

struct llama_model_params {
    ggml_backend_dev_t * devices;
    const struct llama_model_tensor_buft_override * tensor_buft_overrides;
    int32_t n_gpu_layers;
    enum llama_split_mode split_mode;
    enum llama_load_mode load_mode;
    int32_t main_gpu;
    const float * tensor_split;
    llama_progress_callback progress_callback;
    void * progress_callback_user_data;
    bool vocab_only;
    bool check_tensors;
    bool use_extra_bufts;
    bool load_mtp;
    ...;
};

size_t llama_max_devices(void);

struct llama_model_params llama_model_default_params(void);
void llama_model_free(struct llama_model * model);

const struct llama_vocab * llama_model_get_vocab(const struct llama_model * model);

int32_t  llama_model_n_ctx_train(const struct llama_model * model);
int32_t  llama_model_n_embd     (const struct llama_model * model);
int32_t  llama_model_n_embd_out (const struct llama_model * model);
int32_t  llama_model_n_layer    (const struct llama_model * model);
int32_t  llama_model_n_head     (const struct llama_model * model);
int32_t  llama_model_n_head_kv  (const struct llama_model * model);
int32_t  llama_model_n_swa      (const struct llama_model * model);
uint64_t llama_model_size       (const struct llama_model * model);
uint64_t llama_model_n_params   (const struct llama_model * model);
int32_t  llama_model_desc       (const struct llama_model * model, char * buf, size_t size);

bool llama_model_is_recurrent(const struct llama_model * model);
bool llama_model_is_hybrid   (const struct llama_model * model);

int32_t llama_model_meta_count(const struct llama_model * model);
int32_t llama_model_meta_key_by_index    (const struct llama_model * model, int32_t i, char * buf, size_t size);
int32_t llama_model_meta_val_str(const struct llama_model * model, const char * key, char * buf, size_t buf_size);
int32_t llama_model_meta_val_str_by_index(const struct llama_model * model, int32_t i, char * buf, size_t size);

const char * llama_model_chat_template(const struct llama_model * model, const char * name);

enum llama_ftype {
    LLAMA_FTYPE_ALL_F32,
    LLAMA_FTYPE_MOSTLY_F16,
    LLAMA_FTYPE_MOSTLY_Q4_0,
    LLAMA_FTYPE_MOSTLY_Q4_1,
    LLAMA_FTYPE_MOSTLY_Q8_0,
    LLAMA_FTYPE_MOSTLY_Q5_0,
    LLAMA_FTYPE_MOSTLY_Q5_1,
    LLAMA_FTYPE_MOSTLY_Q2_K,
    LLAMA_FTYPE_MOSTLY_Q3_K_S,
    LLAMA_FTYPE_MOSTLY_Q3_K_M,
    LLAMA_FTYPE_MOSTLY_Q3_K_L,
    LLAMA_FTYPE_MOSTLY_Q4_K_S,
    LLAMA_FTYPE_MOSTLY_Q4_K_M,
    LLAMA_FTYPE_MOSTLY_Q5_K_S,
    LLAMA_FTYPE_MOSTLY_Q5_K_M,
    LLAMA_FTYPE_MOSTLY_Q6_K,
    LLAMA_FTYPE_MOSTLY_IQ4_NL,
    LLAMA_FTYPE_MOSTLY_IQ4_XS,
    LLAMA_FTYPE_MOSTLY_BF16,
    ...
};

const char * llama_ftype_name(enum llama_ftype ftype);
enum llama_ftype llama_model_ftype(const struct llama_model * model);

typedef struct llama_model_quantize_params {
    int32_t nthread;
    enum llama_ftype ftype;
    bool allow_requantize;
    bool quantize_output_tensor;
    bool only_copy;
    bool pure;
    ...;
} llama_model_quantize_params;

llama_model_quantize_params llama_model_quantize_default_params(void);

/* treellama-model.h */

int32_t treellama_gguf_check(const char * path);
struct llama_model * treellama_model_load(const char * path, const struct llama_model_params * params);
const char * treellama_model_refusal(const struct llama_model * model);
int64_t treellama_n_positions(const struct llama_model * model);
int32_t treellama_quantize(const char * path_in, const char * path_out, const llama_model_quantize_params * params);
