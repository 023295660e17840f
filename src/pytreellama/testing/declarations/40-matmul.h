/* treellama-matmul.h: one matrix product by itself */

int32_t treellama_quantize_rows(enum ggml_type type, const float * values, int64_t n_rows, int64_t n_per_row, void * data);
int32_t treellama_dequantize_rows(enum ggml_type type, const void * data, int64_t n_rows, int64_t n_per_row, float * values);

struct treellama_matmul_params {
    int64_t n_in;
    int64_t n_out;
    int64_t n_experts;
    int64_t n_tokens;
    int64_t n_used;
    int64_t n_inputs;
    int32_t n_threads;
    enum ggml_type type;
    bool packed;
    bool use_ref;
};

int32_t treellama_matmul(const struct treellama_matmul_params * params,
    const void * w, const float * x, const int32_t * ids, float * out);
