#pragma once

// probe: the masks that attention really used

#include "llama.h"

#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

struct treellama_probe;

struct treellama_probe * treellama_probe_new (void);
void                     treellama_probe_free(struct treellama_probe * probe);

// watch a context before its first pass; until it ends, or another probe watches it. NULL to watch it no more
void treellama_probe_attach(struct treellama_probe * probe, struct llama_context * ctx);

// forget what was recorded
void treellama_probe_reset(struct treellama_probe * probe);

// records so far: one for each micro-batch and each cache (base, sliding window)
int32_t treellama_probe_count(const struct treellama_probe * probe);

// record i: rows are the tokens of the micro-batch (stream by stream), columns are cells
// data (n_streams*n_tokens*n_kv floats) may be NULL to ask for the shape only
int32_t treellama_probe_read(
        const struct treellama_probe * probe, int32_t i,
        bool * is_swa, int32_t * n_kv, int32_t * n_tokens, int32_t * n_streams, float * data);

#ifdef __cplusplus
}
#endif
