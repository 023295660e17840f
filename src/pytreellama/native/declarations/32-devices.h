/* treellama-devices.h */

int32_t treellama_model_devices(const struct llama_model * model, ggml_backend_dev_t * devices, int32_t n_max);
int64_t treellama_kv_bytes(
    const struct llama_model * model, ggml_backend_dev_t device, bool offload, uint32_t n_ctx, enum ggml_type type_k,
    enum ggml_type type_v);
int32_t treellama_check_cache_types(
    const struct llama_model * model, bool offload, enum ggml_type type_k, enum ggml_type type_v, bool flash);
