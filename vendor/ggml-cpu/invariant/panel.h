#pragma once

// 16 rows of quantized weights, 256 columns at a time, unpacked to one form for all types:
//   w = d*(q - bias) + m, with a d (and m) for each row and 16 or 32 columns

#include "blocks.h"

#if defined(INVARIANT)

struct alignas(64) invariant_panel {
    uint8_t q[N_PANEL/4][N_ROWS][4]; // as AMX and VNNI want it
    float   d[N_PANEL/16][N_ROWS];
    float   m[N_PANEL/16][N_ROWS];

    void set_scale(int s, rowsf_t x) { rowsf_store(d[s], x); }
    void set_min  (int s, rowsf_t x) { rowsf_store(m[s], x); }

    // n vectors, of 4 columns each
    void set_codes(int k, const rows_t * codes, int n) {
        for (int i = 0; i < n; ++i) {
            rows_store(q[k/4 + i], codes[i]);
        }
    }
};

// codes with a sign as the products want them
static inline rows_t codes_8_bits(rows_t codes) {
    return SIGNED_CODES ? codes : rows_xor(codes, rows_set8(0x80));
}

// blocks of 32 that begin with a scale

static inline rowsf_t scale_of_e8m0(rows_t head) {
    alignas(64) uint32_t e[N_ROWS];
    alignas(64) float    d[N_ROWS];
    rows_store(e, head);
    for (int r = 0; r < N_ROWS; ++r) {
        d[r] = GGML_E8M0_TO_FP32_HALF((uint8_t) e[r]);
    }
    return rowsf_load(d);
}

static inline void unpack_nibbles(const rows_t * pieces, rows_t * codes) {
    const rows_t low = rows_set8(0x0f);
    for (int i = 0; i < 4; ++i) {
        codes[i]     = rows_and(pieces[i], low);
        codes[i + 4] = rows_and(rows_shr(pieces[i], 4), low);
    }
}

template <ggml_type type, typename S, typename P>
static inline void unpack_blocks_of_32(S & src, int n_k, P & panel) {
    typedef invariant_type<type> T;
    typedef typename T::block    block;

    static const int8_t values_mxfp4[16] = { 12, 13, 14, 15, 16, 18, 20, 24, 12, 11, 10, 9, 8, 6, 4, 0 };

    constexpr bool has_fifth_bit = type == GGML_TYPE_Q5_0 || type == GGML_TYPE_Q5_1;

    for (int b = 0; b < n_k/N_ACT; ++b) {
        src.read_ahead();

        const rows_t head = src.head(b);

        panel.set_scale(b, type == GGML_TYPE_MXFP4 ? scale_of_e8m0(head) : rowsf_from_f16(head));
        if (T::HAS_MIN) {
            panel.set_min(b, rowsf_from_f16(rows_shr(head, 16)));
        }

        rows_t pieces[4];
        rows_t codes[8];

        src.piece(b, offsetof(block, qs), pieces);
        if (type == GGML_TYPE_Q8_0) {
            for (int i = 0; i < 4; ++i) {
                codes[i] = codes_8_bits(pieces[i]);
            }
            src.piece(b, offsetof(block, qs) + 16, pieces);
            for (int i = 0; i < 4; ++i) {
                codes[i + 4] = codes_8_bits(pieces[i]);
            }
        } else {
            unpack_nibbles(pieces, codes);
        }

        if (has_fifth_bit) {
            const rows_t bits = src.word(b, offsetof(block, qs) - sizeof(uint32_t));
            for (int i = 0; i < 8; ++i) {
                codes[i] = rows_or(codes[i], rows_spread_bits(bits, i));
            }
        }

        for (int i = 0; i < 8; ++i) {
            if (type == GGML_TYPE_IQ4_NL) {
                codes[i] = codes_8_bits(rows_lookup(kvalues_iq4nl, codes[i]));
            }
            if (type == GGML_TYPE_MXFP4) {
                codes[i] = rows_lookup(values_mxfp4, codes[i]);
            }
        }

        panel.set_codes(b*N_ACT, codes, 8);
    }
}

// blocks of 256

// the bits of mask, from n places above (below, if negative)
static inline rows_t rows_bits(rows_t x, int n, uint8_t mask) {
    return rows_and(n > 0 ? rows_shr(x, n) : rows_shl(x, -n), rows_set8(mask));
}

static inline rowsf_t rowsf_from_byte(rows_t x, int i) {
    return rowsf_from_i32(rows_and(rows_shr(x, 8*i), rows_set32(0xff)));
}

static inline rowsf_t rowsf_from_signed_byte(rows_t x, int i) {
    return rowsf_from_i32(rows_sar(rows_shl(x, 24 - 8*i), 24));
}

// d, and what m is multiplied by: minus dmin
static inline void unpack_head(rows_t head, rowsf_t & d, rowsf_t & m) {
    d = rowsf_from_f16(head);
    m = rowsf_from_f16(rows_shr(rows_xor(head, rows_set32(0x80000000)), 16));
}

// Q4_K and Q5_K
template <typename B, typename S, typename P>
static inline void unpack_scales_of_6_bits(S & src, P & panel) {
    static_assert(offsetof(B, scales) == 4, "one piece has d, dmin and scales");

    rows_t head[4];
    src.piece(0, 0, head);

    rowsf_t d;
    rowsf_t m;
    unpack_head(head[0], d, m);

    const rows_t scales[2] = {
        rows_bits(head[1], 0, 0x3f),
        rows_or(rows_bits(head[3], 0, 0x0f), rows_bits(head[1], 2, 0x30)),
    };
    const rows_t mins[2] = {
        rows_bits(head[2], 0, 0x3f),
        rows_or(rows_bits(head[3], 4, 0x0f), rows_bits(head[2], 2, 0x30)),
    };

    for (int s = 0; s < 8; ++s) {
        panel.set_scale(s, rowsf_mul(d, rowsf_from_byte(scales[s/4], s % 4)));
        panel.set_min(s, rowsf_mul(m, rowsf_from_byte(mins  [s/4], s % 4)));
    }
}

template <typename S, typename P>
static inline void unpack_q4_K(S & src, P & panel) {
    unpack_scales_of_6_bits<block_q4_K>(src, panel);

    for (int i = 0; i < 8; ++i) {
        src.read_ahead();

        rows_t pieces[4];
        rows_t codes[8];

        src.piece(0, offsetof(block_q4_K, qs) + 16*i, pieces);
        unpack_nibbles(pieces, codes);

        const int k = 64*(i/2) + 16*(i % 2);
        panel.set_codes(k,      codes,     4);
        panel.set_codes(k + 32, codes + 4, 4);
    }
}

template <typename S, typename P>
static inline void unpack_q5_K(S & src, P & panel) {
    unpack_scales_of_6_bits<block_q5_K>(src, panel);

    rows_t high[2][4];
    src.piece(0, offsetof(block_q5_K, qh),      high[0]);
    src.piece(0, offsetof(block_q5_K, qh) + 16, high[1]);

    for (int i = 0; i < 8; ++i) {
        src.read_ahead();

        rows_t pieces[4];
        rows_t codes[8];

        src.piece(0, offsetof(block_q5_K, qs) + 16*i, pieces);
        unpack_nibbles(pieces, codes);

        const int bit = 2*(i/2);
        for (int j = 0; j < 4; ++j) {
            codes[j]     = rows_or(codes[j],     rows_bits(high[i % 2][j], bit     - 4, 0x10));
            codes[j + 4] = rows_or(codes[j + 4], rows_bits(high[i % 2][j], bit + 1 - 4, 0x10));
        }

        const int k = 64*(i/2) + 16*(i % 2);
        panel.set_codes(k,      codes,     4);
        panel.set_codes(k + 32, codes + 4, 4);
    }
}

template <typename S, typename P>
static inline void unpack_q6_K(S & src, P & panel) {
    rows_t scales[4];
    src.piece(0, offsetof(block_q6_K, scales), scales);

    const rowsf_t d = rowsf_from_f16(src.head(0));
    for (int s = 0; s < 16; ++s) {
        panel.set_scale(s, rowsf_mul(d, rowsf_from_signed_byte(scales[s/4], s % 4)));
    }

    // 32*j + 16*h is the place of a code in its half
    for (int half = 0; half < 2; ++half) {
        for (int h = 0; h < 2; ++h) {
            src.read_ahead();
            src.read_ahead();

            rows_t low[2][4];
            rows_t high[4];

            src.piece(0, offsetof(block_q6_K, ql) + 64*half + 16*h,      low[0]);
            src.piece(0, offsetof(block_q6_K, ql) + 64*half + 16*h + 32, low[1]);
            src.piece(0, offsetof(block_q6_K, qh) + 32*half + 16*h,      high);

            for (int j = 0; j < 4; ++j) {
                rows_t codes[4];
                for (int i = 0; i < 4; ++i) {
                    codes[i] = rows_or(rows_bits(low[j % 2][i], 4*(j/2), 0x0f), rows_bits(high[i], 2*j - 4, 0x30));
                }
                panel.set_codes(128*half + 32*j + 16*h, codes, 4);
            }
        }
    }
}

template <typename S, typename P>
static inline void unpack_q2_K(S & src, P & panel) {
    rows_t scales[4];
    src.piece(0, offsetof(block_q2_K, scales), scales);

    rowsf_t d;
    rowsf_t m;
    unpack_head(src.word(0, sizeof(block_q2_K) - 4), d, m);

    for (int s = 0; s < 16; ++s) {
        const rows_t low = rows_bits(scales[s/4], 0, 0x0f);
        const rows_t min = rows_bits(scales[s/4], 4, 0x0f);
        panel.set_scale(s, rowsf_mul(d, rowsf_from_byte(low, s % 4)));
        panel.set_min(s, rowsf_mul(m, rowsf_from_byte(min, s % 4)));
    }

    for (int half = 0; half < 2; ++half) {
        for (int h = 0; h < 2; ++h) {
            src.read_ahead();
            src.read_ahead();

            rows_t pieces[4];
            src.piece(0, offsetof(block_q2_K, qs) + 32*half + 16*h, pieces);

            for (int j = 0; j < 4; ++j) {
                rows_t codes[4];
                for (int i = 0; i < 4; ++i) {
                    codes[i] = rows_bits(pieces[i], 2*j, 0x03);
                }
                panel.set_codes(128*half + 32*j + 16*h, codes, 4);
            }
        }
    }
}

template <typename S, typename P>
static inline void unpack_q3_K(S & src, P & panel) {
    // 12 bytes, and the 4 before them, since what is behind them can lie behind the tensor
    rows_t packed[4];
    src.piece(0, offsetof(block_q3_K, scales) - 4, packed);

    const rows_t scales[4] = {
        rows_or(rows_bits(packed[1], 0, 0x0f), rows_bits(packed[3], -4, 0x30)),
        rows_or(rows_bits(packed[2], 0, 0x0f), rows_bits(packed[3], -2, 0x30)),
        rows_or(rows_bits(packed[1], 4, 0x0f), rows_bits(packed[3],  0, 0x30)),
        rows_or(rows_bits(packed[2], 4, 0x0f), rows_bits(packed[3],  2, 0x30)),
    };

    const rowsf_t d = rowsf_from_f16(src.head(0));
    for (int s = 0; s < 16; ++s) {
        const rows_t scale = rows_and(rows_shr(scales[s/4], 8*(s % 4)), rows_set32(0xff));
        panel.set_scale(s, rowsf_mul(d, rowsf_from_i32(rows_add(scale, rows_set32(-32)))));
    }

    rows_t high[2][4];
    src.piece(0, offsetof(block_q3_K, hmask),      high[0]);
    src.piece(0, offsetof(block_q3_K, hmask) + 16, high[1]);

    for (int half = 0; half < 2; ++half) {
        for (int h = 0; h < 2; ++h) {
            src.read_ahead();
            src.read_ahead();

            rows_t pieces[4];
            src.piece(0, offsetof(block_q3_K, qs) + 32*half + 16*h, pieces);

            for (int j = 0; j < 4; ++j) {
                rows_t codes[4];
                for (int i = 0; i < 4; ++i) {
                    codes[i] = rows_or(rows_bits(pieces[i], 2*j, 0x03), rows_bits(high[h][i], 4*half + j - 2, 0x04));
                }
                panel.set_codes(128*half + 32*j + 16*h, codes, 4);
            }
        }
    }
}

template <typename S, typename P>
static inline void unpack_iq4_xs(S & src, P & panel) {
    const rows_t head = src.head(0);
    const rows_t low  = src.word(0, offsetof(block_iq4_xs, scales_l));
    const rows_t high = rows_shr(head, 16);

    const rowsf_t d = rowsf_from_f16(head);

    for (int b = 0; b < 8; ++b) {
        src.read_ahead();

        rows_t scale = rows_and(rows_shr(low, 4*b), rows_set32(0x0f));
        scale = rows_or(scale, rows_shl(rows_and(rows_shr(high, 2*b), rows_set32(0x03)), 4));
        panel.set_scale(b, rowsf_mul(d, rowsf_from_i32(rows_add(scale, rows_set32(-32)))));

        rows_t pieces[4];
        rows_t codes[8];

        src.piece(0, offsetof(block_iq4_xs, qs) + 16*b, pieces);
        unpack_nibbles(pieces, codes);
        for (int i = 0; i < 8; ++i) {
            codes[i] = codes_8_bits(rows_lookup(kvalues_iq4nl, codes[i]));
        }
        panel.set_codes(N_ACT*b, codes, 8);
    }
}

// panel: an invariant_panel, or what takes its parts as they come
// n_k: columns, a multiple of the type's block
template <ggml_type type, typename S, typename P>
static inline void invariant_unpack(S & src, int n_k, P & panel) {
    if constexpr (type == GGML_TYPE_Q2_K) {
        unpack_q2_K(src, panel);
    } else if constexpr (type == GGML_TYPE_Q3_K) {
        unpack_q3_K(src, panel);
    } else if constexpr (type == GGML_TYPE_Q4_K) {
        unpack_q4_K(src, panel);
    } else if constexpr (type == GGML_TYPE_Q5_K) {
        unpack_q5_K(src, panel);
    } else if constexpr (type == GGML_TYPE_Q6_K) {
        unpack_q6_K(src, panel);
    } else if constexpr (type == GGML_TYPE_IQ4_XS) {
        unpack_iq4_xs(src, panel);
    } else {
        unpack_blocks_of_32<type>(src, n_k, panel);
    }
    GGML_UNUSED(n_k);
}

#endif // INVARIANT
