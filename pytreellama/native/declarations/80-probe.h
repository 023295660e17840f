/* treellama-probe.h: what attention really used */

struct treellama_probe * treellama_probe_new (void);
void                     treellama_probe_free(struct treellama_probe * probe);
void                     treellama_probe_reset(struct treellama_probe * probe);
int32_t                  treellama_probe_count(const struct treellama_probe * probe);
int32_t treellama_probe_read(
    const struct treellama_probe * probe, int32_t i,
    bool * is_swa, int32_t * n_kv, int32_t * n_tokens, int32_t * n_streams, float * data);

int32_t treellama_cells(
    struct llama_context * ctx, bool swa, llama_seq_id seq_id, llama_pos * pos, int32_t * nodes, uint32_t * seqs);
