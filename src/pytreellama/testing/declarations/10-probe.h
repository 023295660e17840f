/* treellama-probe.h: what attention really used */

struct treellama_probe;

struct treellama_probe * treellama_probe_new (void);
void                     treellama_probe_free(struct treellama_probe * probe);
void                     treellama_probe_attach(struct treellama_probe * probe, struct llama_context * ctx);
void                     treellama_probe_reset(struct treellama_probe * probe);
int32_t                  treellama_probe_count(const struct treellama_probe * probe);
int32_t treellama_probe_read(
    const struct treellama_probe * probe, int32_t i,
    bool * is_swa, int32_t * n_kv, int32_t * n_tokens, int32_t * n_streams, float * data);
