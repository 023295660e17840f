#pragma once

// which cells a token sees: its mask, as floats

#include "op.h"

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

#if defined(__AVX512F__)
// of cells that stand in a row; n is a multiple of 16
static bool mask_of_run(const ggml_fp16_t * mp, int64_t n, float * dst) {
    const __m512 hidden = _mm512_set1_ps(-INFINITY);

    __mmask16 any = 0;
    for (int64_t j = 0; j < n; j += 16) {
        const __m512 m = _mm512_maskz_cvtph_ps(0xffff, _mm256_loadu_si256((const __m256i *) (mp + j)));

        any |= _mm512_cmp_ps_mask(m, hidden, _CMP_GT_OQ);
        _mm512_storeu_ps(dst + j, m);
    }
    return any != 0;
}
#endif

// the mask of one token for n cells; false if it sees none of them
static bool gather_mask(const ggml_fp16_t * mp, const int32_t * cells, int64_t n, int64_t n_pad, bool is_run, float * dst) {
#if defined(__AVX512F__)
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
