#include "shift.h"

#include "ggml-cpu-impl.h"

#include <cstring>

bool ggml_cpu_shift_supported(const ggml_tensor * op) {
    return op->op == GGML_OP_CONCAT && op->src[2];
}

void ggml_compute_forward_shift(const ggml_compute_params * params, ggml_tensor * dst) {
    const ggml_tensor * tokens = dst->src[1];
    const ggml_tensor * states = dst->src[3];

    const int32_t * parents = (const int32_t *) dst->src[2]->data;

    for (int64_t t = params->ith; t < dst->ne[1]; t += params->nth) {
        const int32_t parent = parents[t];
        void * row = (char *) dst->data + t*dst->nb[1];

        if (parent >= 0) {
            memcpy(row, (const char *) tokens->data + parent*tokens->nb[1], dst->nb[1]);
        } else if (parent <= -2) {
            memcpy(row, (const char *) states->data + (-2 - parent)*states->nb[1], dst->nb[1]);
        } else {
            memset(row, 0, dst->nb[1]);
        }
    }
}
