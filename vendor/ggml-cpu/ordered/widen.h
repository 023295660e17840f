#pragma once

// types of K and V that are widened in registers: for few rows where they are multiplied, so that floats are never stored

#include "vectors.h"

#include "ggml-cpu.h"

#include <type_traits>

#if defined(FATTN_WIDE)

// rows and vectors of cells or channels that there are registers for. each such part of a tile widens again: for more than
//   MOST rows it costs less to store floats, once (measured on x86; NEON, whose units do both, as with 16 registers)
#if defined(__AVX512F__)
static constexpr int     N_VECTORS   = 4;
static constexpr int64_t MOST_FLOATS = INT64_MAX;
static constexpr int64_t MOST_SCALED = 16;
#else
#if defined(__AVX2__)
static constexpr int     N_VECTORS   = 2;
#else
static constexpr int     N_VECTORS   = 4;
#endif
static constexpr int64_t MOST_FLOATS = 12;
static constexpr int64_t MOST_SCALED = 4;
#endif

// PER is the channels in an element of a transposed piece, PIECE the bytes from one piece to the next, CODES where the
//   elements begin in a piece. the rest says how floats come of them

struct wide_f16 {
    static constexpr int     N_ROWS = 6;
    static constexpr int64_t MOST   = MOST_FLOATS;
    static constexpr int64_t PER    = 1;
    static constexpr int64_t PIECE  = 32;
    static constexpr int64_t CODES  = 0;
    static constexpr bool    SCALED = false;

    static inline GGML_F32_VEC widen(const uint16_t * p, int, GGML_F32_VEC) {
        return widen_f16(p);
    }

    // vector r of RN that begin at channel c, a multiple of RN*WIDE
    template <int RN>
    static inline GGML_F32_VEC load(const char * row, int64_t c, int r) {
        return widen_f16(row + 2*(c + WIDE*r));
    }
};

struct wide_bf16 {
    static constexpr int     N_ROWS = 6;
    static constexpr int64_t MOST   = MOST_FLOATS;
    static constexpr int64_t PER    = 1;
    static constexpr int64_t PIECE  = 32;
    static constexpr int64_t CODES  = 0;
    static constexpr bool    SCALED = false;

    static inline GGML_F32_VEC widen(const uint16_t * p, int, GGML_F32_VEC) {
        return widen_bf16(p);
    }

    template <int RN>
    static inline GGML_F32_VEC load(const char * row, int64_t c, int r) {
        return widen_bf16(row + 2*(c + WIDE*r));
    }
};

// blocks of 32 codes behind their scale: an element is a pair of codes
struct wide_q8_0 {
    static constexpr int     N_ROWS = 4;
    static constexpr int64_t MOST   = MOST_SCALED;
    static constexpr int64_t PER    = 2;
    static constexpr int64_t PIECE  = 34;
    static constexpr int64_t CODES  = 2;
    static constexpr bool    SCALED = true;

    static inline GGML_F32_VEC widen(const uint16_t * p, int i, GGML_F32_VEC scale) {
        return GGML_F32_VEC_MUL(widen_i8_pairs(p, i), scale);
    }

    // the vectors begin with a block, or are within one: so the compiler sees which have a scale in common
    template <int RN>
    static inline GGML_F32_VEC load(const char * row, int64_t c, int r) {
        const char * block = row + (c/32 + WIDE*r/32)*PIECE;
        const char * codes = block + CODES + (RN*WIDE < 32 ? c%32 : 0) + WIDE*r%32;

        const float scale = GGML_CPU_FP16_TO_FP32(*(const ggml_fp16_t *) block);

        return GGML_F32_VEC_MUL(widen_i8(codes), GGML_F32_VEC_SET1(scale));
    }
};

static bool is_wide(ggml_type type, int64_t n) {
    return type == GGML_TYPE_Q8_0 || ((type == GGML_TYPE_F16 || type == GGML_TYPE_BF16) && n % 16 == 0);
}

// call f with the type's struct
template <typename F>
static void with_wide(ggml_type type, F && f) {
    switch (type) {
        case GGML_TYPE_F16:  f(wide_f16());  break;
        case GGML_TYPE_BF16: f(wide_bf16()); break;
        default:             f(wide_q8_0()); break;
    }
}

// whether so many rows widen in registers what is_wide()
static bool is_few(ggml_type type, int64_t n_rows) {
    bool res = false;
    with_wide(type, [&](auto t) {
        res = n_rows <= decltype(t)::MOST;
    });
    return res;
}

// call f with constants: rows, and vectors of cells or channels
template <int RM, typename F>
static inline void with_vectors(int64_t rn, F && f) {
    if constexpr (N_VECTORS == 4) {
        if (rn == 4) {
            f(std::integral_constant<int, RM>(), std::integral_constant<int, 4>());
            return;
        }
    }
    if (rn == 2) {
        f(std::integral_constant<int, RM>(), std::integral_constant<int, 2>());
    } else {
        f(std::integral_constant<int, RM>(), std::integral_constant<int, 1>());
    }
}

template <int RM, typename F>
static inline void with_rows(int64_t rm, int64_t rn, F && f) {
    if constexpr (RM > 1) {
        if (rm < RM) {
            with_rows<RM - 1>(rm, rn, f);
            return;
        }
    }
    with_vectors<RM>(rn, f);
}

// call f(rm, rn, row, vector) for all rows and vectors, in parts that there are registers for
template <int N_MAX, typename F>
static inline void for_each_part(int64_t n_rows, int64_t n_vectors, F && f) {
    for (int64_t r = 0; r < n_rows;) {
        const int64_t n_parts = (n_rows - r + N_MAX - 1)/N_MAX;
        const int64_t rm      = (n_rows - r + n_parts - 1)/n_parts;

        for (int64_t g = 0; g < n_vectors;) {
            const int64_t left = n_vectors - g;
            const int64_t rn   = N_VECTORS >= 4 && left >= 4 ? 4 : left >= 2 ? 2 : 1;

            with_rows<N_MAX>(rm, rn, [&](auto RM, auto RN) {
                f(RM, RN, r, g);
            });
            g += rn;
        }
        r += rm;
    }
}

#endif // FATTN_WIDE
