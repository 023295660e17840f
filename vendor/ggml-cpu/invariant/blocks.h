#pragma once

// the bytes of 16 rows of quantized weights, as they lie in the file or packed

#define GGML_COMMON_IMPL_CPP
#define GGML_COMMON_DECL_CPP
#include "ggml-common.h"

#include "rows.h"

#if defined(INVARIANT)

static constexpr int N_PANEL = 256; // columns that are unpacked at a time
static constexpr int N_ACT   = 32;  // columns of the activations that share a scale

#if defined(INVARIANT_AVX512) || defined(__AVXVNNI__)
static constexpr bool SIGNED_CODES = false; // the instructions multiply unsigned weights
#else
static constexpr bool SIGNED_CODES = true;
#endif

// codes of 8 bits with a sign
static constexpr int BIAS_8_BITS = SIGNED_CODES ? 0 : 128;

template <typename B, int n_block, int n_sub, bool has_min, int bias, int max_code>
struct invariant_traits {
    typedef B block;

    static constexpr int  N_BLOCK  = n_block;  // columns of a block as it is stored
    static constexpr int  N_SUB    = n_sub;    // columns that share a scale
    static constexpr bool HAS_MIN  = has_min;
    static constexpr int  BIAS     = bias;
    static constexpr int  MAX_CODE = max_code; // 255 if codes can have a sign
};

template <ggml_type type> struct invariant_type;

template <> struct invariant_type<GGML_TYPE_Q4_0>   : invariant_traits<block_q4_0,   QK4_0,    32, false,  8,  15> {};
template <> struct invariant_type<GGML_TYPE_Q4_1>   : invariant_traits<block_q4_1,   QK4_1,    32, true,   0,  15> {};
template <> struct invariant_type<GGML_TYPE_Q5_0>   : invariant_traits<block_q5_0,   QK5_0,    32, false, 16,  31> {};
template <> struct invariant_type<GGML_TYPE_Q5_1>   : invariant_traits<block_q5_1,   QK5_1,    32, true,   0,  31> {};
template <> struct invariant_type<GGML_TYPE_Q8_0>   : invariant_traits<block_q8_0,   QK8_0,    32, false, BIAS_8_BITS, 255> {};
template <> struct invariant_type<GGML_TYPE_Q2_K>   : invariant_traits<block_q2_K,   QK_K,     16, true,   0,   3> {};
template <> struct invariant_type<GGML_TYPE_Q3_K>   : invariant_traits<block_q3_K,   QK_K,     16, false,  4,   7> {};
template <> struct invariant_type<GGML_TYPE_Q4_K>   : invariant_traits<block_q4_K,   QK_K,     32, true,   0,  15> {};
template <> struct invariant_type<GGML_TYPE_Q5_K>   : invariant_traits<block_q5_K,   QK_K,     32, true,   0,  31> {};
template <> struct invariant_type<GGML_TYPE_Q6_K>   : invariant_traits<block_q6_K,   QK_K,     16, false, 32,  63> {};
template <> struct invariant_type<GGML_TYPE_IQ4_NL> : invariant_traits<block_iq4_nl, QK4_NL,   32, false, BIAS_8_BITS, 255> {};
template <> struct invariant_type<GGML_TYPE_IQ4_XS> : invariant_traits<block_iq4_xs, QK_K,     32, false, BIAS_8_BITS, 255> {};
template <> struct invariant_type<GGML_TYPE_MXFP4>  : invariant_traits<block_mxfp4,  QK_MXFP4, 32, false, 12,  24> {};

// a block has words of 32 bits, and a head: the bytes that make no word, or the first word
template <typename T>
struct block_parts {
    static constexpr size_t SIZE    = sizeof(typename T::block);
    static constexpr size_t N_WORDS = SIZE/4;
    static constexpr size_t N_HEAD  = SIZE % 4;

    // where blocks of 256 have one, it is their scale, at the end
    static constexpr size_t HEAD  = T::N_BLOCK == N_PANEL && N_HEAD != 0 ? SIZE - N_HEAD : 0;
    static constexpr size_t WORDS = HEAD == 0 ? N_HEAD : 0;
};

// reads what comes next, as many bytes as 32 columns have, into the second cache: the first has too few places for lines
// that are under way, and what is to come takes the place there of what is multiplied now
template <typename T>
static inline void prefetch(const char * & next) {
    constexpr size_t n = N_ROWS*N_ACT*block_parts<T>::SIZE/T::N_BLOCK;
#if defined(__GNUC__)
    for (size_t i = 0; i < n; i += 64) {
        __builtin_prefetch(next + i, 0, 2);
    }
#endif
    next += n;
}

// rows as they lie in the file: begin of the first block of each
template <typename T>
struct plain_blocks {
    typedef block_parts<T> P;

    const char * rows[N_ROWS];
    const char * next; // what is read next, after these rows

    alignas(64) uint32_t heads[N_PANEL/T::N_BLOCK][N_ROWS];

    // all heads at once, long before they are needed as vectors
    void load(int n_k) {
        // not beyond the end of the tensor
        constexpr size_t at = P::HEAD == 0 ? 0 : P::SIZE - sizeof(uint32_t);

        for (int r = 0; r < N_ROWS; ++r) {
            for (int b = 0; b < n_k/T::N_BLOCK; ++b) {
                memcpy(&heads[b][r], rows[r] + b*P::SIZE + at, sizeof(uint32_t));
            }
        }
    }

    void advance() {
        for (auto & row : rows) {
            row += N_PANEL/T::N_BLOCK*P::SIZE;
        }
    }

    rows_t head(int b) const {
        return P::HEAD == 0 ? rows_load(heads[b]) : rows_shr(rows_load(heads[b]), 32 - 8*P::N_HEAD);
    }

    rows_t word(int b, size_t offset) const {
        alignas(64) uint32_t res[N_ROWS];
        for (int r = 0; r < N_ROWS; ++r) {
            memcpy(&res[r], rows[r] + b*P::SIZE + offset, sizeof(uint32_t));
        }
        return rows_load(res);
    }

    // 4 words
    void piece(int b, size_t offset, rows_t * out) const {
        rows_transpose(rows, b*P::SIZE + offset, out);
    }

    // rows are read side by side, which no CPU foresees
    void read_ahead() {
        prefetch<T>(next);
    }
};

// bytes: less far is slower where weights come from memory, farther leaves more of a small unit's begin to be waited for
static constexpr size_t N_AHEAD = 16*1024;

// 16 rows packed: the heads of all blocks, of all rows, and behind them each word of all rows, block by block
template <typename T>
struct packed_blocks {
    typedef block_parts<T> P;

    const char * heads;
    const char * words;
    const char * next; // what is read ahead

    packed_blocks(const char * data, int64_t n_k) :
        heads(data),
        words(data + n_k/T::N_BLOCK*P::N_HEAD*N_ROWS),
        next(data + N_AHEAD) {
    }

    void load(int) {}

    void advance() {
        words += N_PANEL/T::N_BLOCK*P::N_WORDS*sizeof(uint32_t)*N_ROWS;
        heads += N_PANEL/T::N_BLOCK*P::N_HEAD*N_ROWS;
    }

    rows_t head(int b) const {
        if constexpr (P::N_HEAD == 0) {
            return word(b, 0);
        } else if constexpr (P::N_HEAD == 1) {
            return rows_load_u8(heads + b*N_ROWS);
        } else {
            static_assert(P::N_HEAD == 2, "no type has another head");
            return rows_load_u16(heads + b*2*N_ROWS);
        }
    }

    rows_t word(int b, size_t offset) const {
        return rows_load(words + (b*P::N_WORDS + (offset - P::WORDS)/4)*sizeof(uint32_t)*N_ROWS);
    }

    void piece(int b, size_t offset, rows_t * out) const {
        for (int i = 0; i < 4; ++i) {
            out[i] = word(b, offset + 4*i);
        }
    }

    void read_ahead() {
        prefetch<T>(next);
    }
};

// 16 rows of the file to what packed_blocks reads
template <typename T>
static void pack_rows(const char * rows, size_t stride, int64_t n_k, char * dst) {
    typedef block_parts<T> P;

    const int64_t n_blocks = n_k/T::N_BLOCK;

    char * heads = dst;
    char * words = dst + n_blocks*P::N_HEAD*N_ROWS;

    for (int64_t b = 0; b < n_blocks; ++b) {
        for (int r = 0; r < N_ROWS; ++r) {
            const char * block = rows + r*stride + b*P::SIZE;
            for (size_t i = 0; i < P::N_WORDS; ++i) {
                memcpy(words + ((b*P::N_WORDS + i)*N_ROWS + r)*sizeof(uint32_t), block + P::WORDS + 4*i, sizeof(uint32_t));
            }
            memcpy(heads + (b*N_ROWS + r)*P::N_HEAD, block + P::HEAD, P::N_HEAD);
        }
    }
}

#endif // INVARIANT
