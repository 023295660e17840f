#pragma once

// ggml_fill of contiguous floats. ggml's own divides for each row, and the logits of an EAGLE-3 model with a vocabulary of
// its own are filled as rows of one number: that took as long as the model's products.

#include "ggml-cpu-impl.h"
#include "ggml-impl.h"

#include <algorithm>

static bool ggml_cpu_fill_supported(const ggml_tensor * op) {
    return op->op == GGML_OP_FILL && op->type == GGML_TYPE_F32 && ggml_is_contiguous(op);
}

static void ggml_compute_forward_fill_contiguous(const ggml_compute_params * params, ggml_tensor * op) {
    const int64_t n     = ggml_nelements(op);
    const int64_t n_own = (n + params->nth - 1)/params->nth;
    const int64_t begin = std::min(n, params->ith*n_own);
    const int64_t end   = std::min(n, begin + n_own);

    float * data = (float *) op->data;
    std::fill(data + begin, data + end, ggml_get_op_params_f32(op, 0));
}
