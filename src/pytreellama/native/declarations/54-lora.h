/* treellama-lora.h */

struct llama_adapter_lora;

struct llama_adapter_lora * treellama_lora_load(struct llama_model * model, const char * path);
void llama_adapter_lora_free(struct llama_adapter_lora * adapter);

struct treellama_lora_sets;

struct treellama_lora_sets * treellama_lora_sets_init(void);
void                         treellama_lora_sets_free(struct treellama_lora_sets * sets);

int32_t treellama_lora_use(
    struct treellama_lora_sets * sets, struct llama_context * ctx, struct llama_adapter_lora ** adapters, const float * scales,
    int32_t n);
