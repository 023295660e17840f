#pragma once

// C[M x N] += A[M x K] * B[K x N], as simd_gemm() does, with the rows that are left over taken together

#include "op.h"

#if defined(FATTN_ORDERED)

// rows that are taken together, with GEMM_RN vectors of columns: there are registers for more than simd_gemm() takes
static constexpr int GEMM_ROWS = 6;

template <int RM>
static inline void gemm_rows(float * C, const float * A, const float * B, int K, int N) {
    static constexpr int KN = GGML_F32_EPR;

    int64_t jj = 0;
    for (; jj + GEMM_RN*KN <= N; jj += GEMM_RN*KN) {
        simd_gemm_ukernel<RM, GEMM_RN>(C + jj, A, B + jj, K, N);
    }
    for (; jj + KN <= N; jj += KN) {
        simd_gemm_ukernel<RM, 1>(C + jj, A, B + jj, K, N);
    }
    if (jj < N) {
        simd_gemm_ukernel_tail<RM>(C + jj, A, B + jj, K, N, N - jj);
    }
}

template <int RM>
static inline void gemm_last_rows(float * C, const float * A, const float * B, int M, int K, int N) {
    if constexpr (RM > 0) {
        if (M == RM) {
            gemm_rows<RM>(C, A, B, K, N);
        } else {
            gemm_last_rows<RM - 1>(C, A, B, M, K, N);
        }
    }
}

static void gemm(float * C, const float * A, const float * B, int M, int K, int N) {
    int64_t i = 0;
    for (; i + GEMM_ROWS <= M; i += GEMM_ROWS) {
        gemm_rows<GEMM_ROWS>(C + i*N, A + i*K, B, K, N);
    }
    gemm_last_rows<GEMM_ROWS - 1>(C + i*N, A + i*K, B, M - i, K, N);
}

#endif // FATTN_ORDERED
