#pragma once

// rows of K or V, and types whose codes fit into those of Q8_0: they become rows of it, with the same values

#include "op.h"

#define GGML_COMMON_DECL_CPP
#define GGML_COMMON_IMPL_CPP
#include "ggml-common.h"

#if defined(FATTN_ORDERED)

// of some cells of one head
struct fattn_rows {
    ggml_type       type;
    const char    * data;  // of cell 0
    size_t          nb;
    const int32_t * cells; // null if row follows row
    int64_t         n;
    int64_t         n_pad; // rows behind n are zeros

    const char * row(int64_t j) const { return data + (cells ? cells[j] : j)*nb; }
};

// the codes that 16 pairs of nibbles stand for: all lower ones, then all upper ones
static inline void codes_of_nibbles(const uint8_t * pairs, const int8_t * table, int8_t * y) {
#if defined(__AVX2__)
    const __m128i codes = _mm_loadu_si128((const __m128i *) table);
    const __m128i x     = _mm_loadu_si128((const __m128i *) pairs);
    const __m128i low   = _mm_set1_epi8(0x0f);

    _mm_storeu_si128((__m128i *) y,     _mm_shuffle_epi8(codes, _mm_and_si128(x, low)));
    _mm_storeu_si128((__m128i *) y + 1, _mm_shuffle_epi8(codes, _mm_and_si128(_mm_srli_epi16(x, 4), low)));
#elif defined(__ARM_NEON) && defined(__aarch64__)
    const int8x16_t  codes = vld1q_s8(table);
    const uint8x16_t x     = vld1q_u8(pairs);

    vst1q_s8(y,      vqtbl1q_s8(codes, vandq_u8(x, vdupq_n_u8(0x0f))));
    vst1q_s8(y + 16, vqtbl1q_s8(codes, vshrq_n_u8(x, 4)));
#else
    for (int j = 0; j < 16; ++j) {
        y[j]      = table[pairs[j] & 0x0f];
        y[j + 16] = table[pairs[j] >> 4];
    }
#endif
}

static inline void codes_of(const block_q4_0 & x, int8_t * y) {
    static const int8_t table[16] = { -8, -7, -6, -5, -4, -3, -2, -1, 0, 1, 2, 3, 4, 5, 6, 7 };

    codes_of_nibbles(x.qs, table, y);
}

static inline void codes_of(const block_iq4_nl & x, int8_t * y) {
    codes_of_nibbles(x.qs, kvalues_iq4nl, y);
}

// a fifth bit that is not set takes 16 away
static inline void codes_of(const block_q5_0 & x, int8_t * y) {
    static const int8_t table[16] = { 0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15 };

    static constexpr uint64_t ones = 0x0101010101010101;

    codes_of_nibbles(x.qs, table, y);

    for (int i = 0; i < 4; ++i) {
        // bit j of eight in byte j, then as its lowest bit
        const uint64_t bits = (((x.qh[i]*ones & 0x8040201008040201) + 0x7f*ones) >> 7) & ones;

        uint64_t codes;
        memcpy(&codes, y + 8*i, sizeof(codes));
        codes |= (bits ^ ones)*0xf0;
        memcpy(y + 8*i, &codes, sizeof(codes));
    }
}

template <typename T>
static void recode_rows(const fattn_rows & rows, int64_t n_channels, block_q8_0 * dst) {
    for (int64_t j = 0; j < rows.n; ++j) {
        const T * src = (const T *) rows.row(j);

        for (int64_t i = 0; i < n_channels/QK8_0; ++i, ++dst) {
            dst->d = src[i].d;
            codes_of(src[i], dst->qs);
        }
    }
}

static bool is_recoded(ggml_type type) {
    return type == GGML_TYPE_Q4_0 || type == GGML_TYPE_Q5_0 || type == GGML_TYPE_IQ4_NL;
}

// the same rows in a type that kernels know, written to a buffer if they are not
static fattn_rows recode(const fattn_rows & rows, int64_t n_channels, void * buffer) {
    if (!is_recoded(rows.type)) {
        return rows;
    }

    block_q8_0 * dst = (block_q8_0 *) buffer;

    switch (rows.type) {
        case GGML_TYPE_Q4_0: recode_rows<block_q4_0>  (rows, n_channels, dst); break;
        case GGML_TYPE_Q5_0: recode_rows<block_q5_0>  (rows, n_channels, dst); break;
        default:             recode_rows<block_iq4_nl>(rows, n_channels, dst); break;
    }
    return { GGML_TYPE_Q8_0, (const char *) buffer, ggml_row_size(GGML_TYPE_Q8_0, n_channels), nullptr, rows.n, rows.n_pad };
}

#endif // FATTN_ORDERED
