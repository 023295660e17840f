#pragma once

// outputs of rows from cells

#include "fetch.h"
#include "gemm.h"
#include "pack.h"
#include "recode.h"
#include "widen.h"

#if defined(FATTN_ORDERED)

#if defined(FATTN_WIDE)

// RM rows and RN vectors of channels: gemm()'s chain of FMAs
template <typename T, int RM, int RN>
static void output_part(float * O, int64_t DV, int64_t channel, const float * P, const fattn_rows & values,
        const fattn_fetch & fetch) {
    const int64_t part = fetch.part(values.n);

    GGML_F32_VEC acc[RM][RN];
    FATTN_UNROLL
    for (int i = 0; i < RM; ++i) {
        FATTN_UNROLL
        for (int r = 0; r < RN; ++r) {
            acc[i][r] = GGML_F32_VEC_LOAD(O + i*DV + channel + WIDE*r);
        }
    }

    for (int64_t j = 0; j < values.n; ++j) {
        fetch.rows(j*part, (j + 1)*part);

        const char * row = values.row(j);

        GGML_F32_VEC v[RN];
        FATTN_UNROLL
        for (int r = 0; r < RN; ++r) {
            v[r] = T::template load<RN>(row, channel, r);
        }
        FATTN_UNROLL
        for (int i = 0; i < RM; ++i) {
            const GGML_F32_VEC p = GGML_F32_VEC_SET1(P[i*values.n_pad + j]);
            FATTN_UNROLL
            for (int r = 0; r < RN; ++r) {
                acc[i][r] = GGML_F32_VEC_FMA(acc[i][r], v[r], p);
            }
        }
    }

    // zeros count: they make 0 of -0, and NaN of a weight that is none
    for (int64_t j = values.n; j < values.n_pad; ++j) {
        FATTN_UNROLL
        for (int i = 0; i < RM; ++i) {
            const GGML_F32_VEC p = GGML_F32_VEC_SET1(P[i*values.n_pad + j]);
            FATTN_UNROLL
            for (int r = 0; r < RN; ++r) {
                acc[i][r] = GGML_F32_VEC_FMA(acc[i][r], GGML_F32_VEC_SET1(0.0f), p);
            }
        }
    }

    FATTN_UNROLL
    for (int i = 0; i < RM; ++i) {
        FATTN_UNROLL
        for (int r = 0; r < RN; ++r) {
            GGML_F32_VEC_STORE(O + i*DV + channel + WIDE*r, acc[i][r]);
        }
    }
}

// all rows and channels
template <typename T>
static void output_wide(float * O, int64_t DV, const float * P, int64_t n_rows, const fattn_rows & values,
        const fattn_fetch & fetch) {
    for_each_part<T::N_ROWS>(n_rows, DV/WIDE, [&](auto RM, auto RN, int64_t r, int64_t vector) {
        output_part<T, RM, RN>(O + r*DV, DV, vector*WIDE, P + r*values.n_pad, values,
            r == 0 && vector == 0 ? fetch : fattn_fetch());
    });
}

#endif // FATTN_WIDE

// O += weights times values. V has room for the values as floats
static void output_rows(float * O, int64_t DV, const float * P, int64_t n_rows, const fattn_rows & values, float * V,
        const fattn_fetch & fetch) {
#if defined(FATTN_WIDE)
    if (is_wide(values.type, DV) && is_few(values.type, n_rows)) {
        with_wide(values.type, [&](auto type) {
            output_wide<decltype(type)>(O, DV, P, n_rows, values, fetch);
        });
        return;
    }
#endif
    pack_v(values, DV, V, fetch);
    gemm(O, P, V, n_rows, values.n_pad, DV);
}

#endif // FATTN_ORDERED
