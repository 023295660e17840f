#pragma once

// the products of products.h for few columns: each code is multiplied as soon as it is unpacked, and none is stored

#include "products.h"

#if defined(INVARIANT_AVX512)
#define INVARIANT_DIRECT

// takes what an invariant_panel takes
template <typename T, int n>
struct alignas(64) panel_dots {
    ints_t dots[N_PANEL/T::N_SUB][n];
    float  d[N_PANEL/T::N_SUB][N_ROWS];
    float  m[N_PANEL/T::N_SUB][N_ROWS];

    const acts_at * acts;

    panel_dots(int n_k, const acts_at * acts) : acts(acts) {
        for (int s = 0; s < n_k/T::N_SUB; ++s) {
            INVARIANT_UNROLL
            for (int c = 0; c < n; ++c) {
                dots[s][c] = ints_set(T::BIAS == 0 ? 0 : acts[c].biases[s]);
            }
        }
    }

    void set_scale(int s, rowsf_t x) { rowsf_store(d[s], x); }
    void set_min  (int s, rowsf_t x) { rowsf_store(m[s], x); }

    // all of one N_SUB
    void set_codes(int k, const rows_t * codes, int n_codes) {
        INVARIANT_UNROLL
        for (int c = 0; c < n; ++c) {
            ints_t dot = dots[k/T::N_SUB][c];
            for (int i = 0; i < n_codes; ++i) {
                dot = _mm512_dpbusd_epi32(dot, codes[i], _mm512_set1_epi32(load_4_codes(acts[c].q + k + 4*i)));
            }
            dots[k/T::N_SUB][c] = dot;
        }
    }

    void add_to(float * sums, int n_k) const {
        floats_t res[n];
        INVARIANT_UNROLL
        for (int c = 0; c < n; ++c) {
            res[c] = floats_load(sums + c*N_ROWS);
        }

        for (int k = 0; k < n_k; k += T::N_SUB) {
            const int s = k/T::N_SUB;
            add_scaled<T, n>(d[s], m[s], k, acts, [&](int c) { return dots[s][c]; }, res);
        }

        INVARIANT_UNROLL
        for (int c = 0; c < n; ++c) {
            floats_store(sums + c*N_ROWS, res[c]);
        }
    }
};

// src: the next n_k columns of the weights
template <ggml_type type, int n = N_COLS_MAX, typename S>
static void add_products_direct(int n_cols, S & src, int n_k, const acts_at * acts, float * sums) {
    if (n_cols == n) {
        panel_dots<invariant_type<type>, n> dots(n_k, acts);
        invariant_unpack<type>(src, n_k, dots);
        dots.add_to(sums, n_k);
    } else if constexpr (n > 1) {
        add_products_direct<type, n - 1>(n_cols, src, n_k, acts, sums);
    }
}

#endif // INVARIANT_DIRECT
