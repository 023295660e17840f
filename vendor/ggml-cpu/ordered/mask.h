#pragma once

// which cells a token sees: its mask, as floats

#include "op.h"
#include "rows.h"
#include "vectors.h"

#include "ggml-cpu.h"

#include <cmath>

#if defined(FATTN_ORDERED)

static bool counts_up(const int32_t * x, int64_t n) {
    int32_t differs = 0;
    for (int32_t j = 1; j < (int32_t) n; ++j) {
        differs |= x[j] ^ (x[0] + j);
    }
    return differs == 0;
}

#if defined(FATTN_WIDE)
// of cells that stand in a row; n is a multiple of N_LANES
static bool mask_of_run(const ggml_fp16_t * mp, int64_t n, float * dst) {
    GGML_F32_VEC top = GGML_F32_VEC_SET1(-INFINITY);

    for (int64_t j = 0; j < n; j += WIDE) {
        const GGML_F32_VEC m = widen_f16(mp + j);

        top = FATTN_VEC_MAX(m, top);
        GGML_F32_VEC_STORE(dst + j, m);
    }
    return vec_top(top) > -INFINITY;
}
#endif

// the mask of one token for n cells; false if it sees none of them
static bool gather_mask(const ggml_fp16_t * mp, const int32_t * cells, int64_t n, int64_t n_pad, bool is_run, float * dst) {
#if defined(FATTN_WIDE)
    if (is_run && n == n_pad) {
        return mask_of_run(mp + cells[0], n, dst);
    }
#endif
    if (is_run) {
        ggml_cpu_fp16_to_fp32(mp + cells[0], dst, n);
    } else {
        for (int64_t j = 0; j < n; ++j) {
            dst[j] = GGML_CPU_FP16_TO_FP32(mp[cells[j]]);
        }
    }
    std::fill(dst + n, dst + n_pad, -INFINITY);

    bool any = false;
    for (int64_t j = 0; j < n_pad; ++j) {
        any |= dst[j] > -INFINITY;
    }

    return any;
}

#endif // FATTN_ORDERED
