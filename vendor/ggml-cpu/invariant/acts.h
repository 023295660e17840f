#pragma once

// activations, quantized to 8 bits in blocks of 32

#include "blocks.h"

#if defined(INVARIANT)

#include <cmath>

// a row: the codes, the scale of each block, and for each N_SUB columns what the weights' bias or minimum is multiplied by
struct acts_layout {
    int    n_sub;
    size_t scales;
    size_t sums;
    size_t row_size;

    acts_layout(int64_t n_k, int n_sub) :
        n_sub(n_sub),
        scales(GGML_PAD(n_k, 64)),
        sums(scales + n_k/N_ACT*sizeof(float)),
        row_size(GGML_PAD(sums + n_k/n_sub*sizeof(float), 64)) {
    }
};

// where a panel's columns begin in one row of activations
struct acts_at {
    const int8_t  * q;
    const float   * d;
    const float   * sums;   // if the weights have a minimum
    const int32_t * biases; // if the codes of the weights have a bias
};

static inline acts_at acts_at_column(const acts_layout & layout, const char * row, int64_t k) {
    const char * sums = row + layout.sums + k/layout.n_sub*sizeof(float);
    return {
        (const int8_t *) row + k,
        (const float *) (row + layout.scales) + k/N_ACT,
        (const float *) sums,
        (const int32_t *) sums,
    };
}

static inline float max_abs(const float * x) {
    // as integers, in which a NaN is larger than all numbers
    int32_t res = 0;
    for (int i = 0; i < N_ACT; ++i) {
        int32_t bits;
        memcpy(&bits, x + i, sizeof(bits));
        bits &= 0x7fffffff;
        res = bits > res ? bits : res;
    }
    float max;
    memcpy(&max, &res, sizeof(max));
    return max;
}

template <typename T>
static void acts_quantize(const acts_layout & layout, const float * x, char * row, int64_t k_begin, int64_t k_end) {
    constexpr float round = 12582912.0f; // 1.5*2^23: what is added to it is rounded to an integer, in its low bits

    for (int64_t k = k_begin; k < k_end; k += N_ACT) {
        int8_t * q = (int8_t *) row + k;

        const float max   = max_abs(x + k);
        const float scale = 127.0f/max;

        // too small to be divided by
        const float id = std::isinf(scale) ? 0.0f : scale;
        // an infinity times a weight can have any sign after it was rounded
        const float d  = std::isfinite(max) ? (id == 0.0f ? 0.0f : max/127.0f) : NAN;

        int32_t codes[N_ACT];
        for (int i = 0; i < N_ACT; ++i) {
            const float shifted = x[k + i]*id + round;
            memcpy(&codes[i], &shifted, sizeof(int32_t));
            codes[i] -= 0x4b400000;
        }
        for (int i = 0; i < N_ACT; ++i) {
            q[i] = (int8_t) codes[i];
        }

        memcpy(row + layout.scales + k/N_ACT*sizeof(float), &d, sizeof(d));

        for (int i = 0; i < N_ACT; i += T::N_SUB) {
            int32_t sum = 0;
            for (int j = 0; j < T::N_SUB; ++j) {
                sum += q[i + j];
            }

            char * dst = row + layout.sums + (k + i)/T::N_SUB*sizeof(float);
            if (T::HAS_MIN) {
                const float scaled = d*(float) sum;
                memcpy(dst, &scaled, sizeof(scaled));
            } else {
                const int32_t bias = -T::BIAS*sum;
                memcpy(dst, &bias, sizeof(bias));
            }
        }
    }
}

#endif // INVARIANT
