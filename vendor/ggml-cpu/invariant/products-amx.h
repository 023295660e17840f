#pragma once

// the products of products.h for 16 columns, by the tiles of AMX

#include "products.h"

#if defined(INVARIANT_AVX512) && defined(__AMX_INT8__)
#define INVARIANT_AMX

static constexpr int N_COLS_AMX = 16;

struct alignas(64) amx_dots {
    int32_t x[N_COLS_AMX][N_ROWS];
};

// dots of 16 columns, and for N_SUB of 32 and of 16 the activations and the panel
#define TILE_DOTS     0
#define TILE_ACTS_32  1
#define TILE_PANEL_32 2
#define TILE_ACTS_16  3
#define TILE_PANEL_16 4

struct alignas(64) amx_config {
    uint8_t  palette     = 1;
    uint8_t  start       = 0;
    uint8_t  zero[14]    = {};
    uint16_t n_bytes[16] = { 64, 32, 64, 16, 64 };
    uint8_t  n_rows [16] = { 16, 16,  8, 16,  4 };
};

static_assert(sizeof(amx_config) == 64, "as the instruction wants it");

static void amx_configure() {
    // not on the stack: the intrinsic of GCC before 13 claims to read 8 of the bytes
    static const amx_config config;

    // at every product: other code on this thread, such as PyTorch's, may have configured the tiles
    // for itself or released them since
    //
    // it takes some tens of nanoseconds
    _tile_loadconfig(&config);
}

template <typename T>
static inline void amx_dots_of(const uint8_t * w, const int8_t * q, size_t stride, amx_dots & dots) {
    _tile_zero(TILE_DOTS);
    if constexpr (T::N_SUB == 32) {
        _tile_loadd(TILE_ACTS_32, q, stride);
        _tile_loadd(TILE_PANEL_32, w, 4*N_ROWS);
        _tile_dpbsud(TILE_DOTS, TILE_ACTS_32, TILE_PANEL_32);
    } else {
        _tile_loadd(TILE_ACTS_16, q, stride);
        _tile_loadd(TILE_PANEL_16, w, 4*N_ROWS);
        _tile_dpbsud(TILE_DOTS, TILE_ACTS_16, TILE_PANEL_16);
    }
    _tile_stored(TILE_DOTS, dots.x, 4*N_ROWS);
}

// q: the codes of 16 activations, one every stride bytes
template <typename T>
static void add_products_amx(const invariant_panel & panel, int n_k, const acts_at * acts, const int8_t * q, size_t stride, float * sums) {
    amx_dots dots[2];

    floats_t res[N_COLS_AMX];
    INVARIANT_UNROLL
    for (int c = 0; c < N_COLS_AMX; ++c) {
        res[c] = floats_load(sums + c*N_ROWS);
    }

    amx_dots_of<T>(panel.q[0][0], q, stride, dots[0]);

    for (int k = 0; k < n_k; k += T::N_SUB) {
        const int s = k/T::N_SUB;

        // the tiles work at the next part meanwhile
        if (k + T::N_SUB < n_k) {
            amx_dots_of<T>(panel.q[(k + T::N_SUB)/4][0], q + k + T::N_SUB, stride, dots[(s + 1) % 2]);
        }

        const int32_t (* x)[N_ROWS] = dots[s % 2].x;

        add_scaled<T, N_COLS_AMX>(panel.d[s], panel.m[s], k, acts, [&](int c) {
            const __m512i dot = _mm512_load_si512(x[c]);
            return T::BIAS == 0 ? dot : _mm512_add_epi32(dot, ints_set(acts[c].biases[s]));
        }, res);
    }

    INVARIANT_UNROLL
    for (int c = 0; c < N_COLS_AMX; ++c) {
        floats_store(sums + c*N_ROWS, res[c]);
    }
}

#endif // INVARIANT_AMX
