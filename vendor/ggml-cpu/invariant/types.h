#pragma once

// how each type of weights is multiplied: codes in panels, floats, or row by row with the dot products of ggml-cpu

#include "op.h"
#include "panel.h"
#include "products.h"
#include "products-amx.h"
#include "products-direct.h"

#include "ggml-cpu.h"

#if defined(INVARIANT_AMX)
#include "amx/amx.h"
#endif

#if defined(INVARIANT)

#if defined(INVARIANT_AMX)
static bool has_amx() {
    // asks the system for the tiles
    static const bool res = ggml_backend_amx_buffer_type() != nullptr;
    return res;
}
#endif

template <ggml_type type>
struct product_of_codes {
    typedef invariant_type<type> T;

    static acts_layout layout(const product_op & op) {
        return acts_layout(op.n_k, T::N_SUB);
    }

    static int64_t act_block(const ggml_tensor *) {
        return N_ACT;
    }

    static size_t act_size(const ggml_tensor * dst) {
        return acts_layout(dst->src[0]->ne[0], T::N_SUB).row_size;
    }

    static void pack(const char * rows, size_t stride, int64_t n_k, char * dst) {
        pack_rows<T>(rows, stride, n_k, dst);
    }

    static void convert(const product_op & op, int64_t row, int64_t k_begin, int64_t k_end) {
        acts_quantize<T>(layout(op), (const float *) op.x_row(row), op.acts + row*op.act_size, k_begin, k_end);
    }

    static void multiply(const product_op & op, const product_rows & rows, const product_cols & cols) {
        for (int64_t r = rows.begin; r < rows.end; r += N_ROWS) {
            if (op.is_packed) {
                packed_blocks<T> blocks(rows.at(r), op.n_k);
                multiply_rows(op, rows, r, cols, blocks);
                continue;
            }

            plain_blocks<T> blocks;
            for (int i = 0; i < N_ROWS; ++i) {
                blocks.rows[i] = rows.at(r + i);
            }
            blocks.next = blocks.rows[0] + N_ROWS*rows.stride;
            multiply_rows(op, rows, r, cols, blocks);
        }
    }

    template <typename S>
    static void multiply_rows(const product_op & op, const product_rows & rows, int64_t r, const product_cols & cols, S & blocks) {
        const acts_layout layout = product_of_codes::layout(op);

        alignas(64) float sums[N_COLS_UNIT*N_ROWS];
        memset(sums, 0, GGML_PAD(cols.n, 16)*N_ROWS*sizeof(float));

        for (int64_t k = 0; k < op.n_k; k += N_PANEL) {
            const int n_k = std::min<int64_t>(N_PANEL, op.n_k - k);

            blocks.load(n_k);
            add_columns(layout, blocks, k, n_k, cols, sums);
            blocks.advance();
        }

        const int64_t n = std::min<int64_t>(N_ROWS, rows.end - r);
        for (int64_t c = 0; c < cols.n; ++c) {
            memcpy(cols.outs[c] + r, sums + c*N_ROWS, n*sizeof(float));
        }
    }

    // n_k columns of the weights, from column k on
    template <typename S>
    static void add_columns(const acts_layout & layout, S & blocks, int64_t k, int n_k, const product_cols & cols, float * sums) {
#if defined(INVARIANT_DIRECT)
        if (cols.n <= N_COLS_MAX) {
            acts_at acts[N_COLS_MAX];
            acts_at_columns(layout, cols, 0, cols.n, k, acts);
            add_products_direct<type>(cols.n, blocks, n_k, acts, sums);
            return;
        }
#endif
        invariant_panel panel;
        invariant_unpack<type>(blocks, n_k, panel);
        add_panel(layout, panel, k, n_k, cols, sums);
    }

    static void acts_at_columns(const acts_layout & layout, const product_cols & cols, int64_t c, int n, int64_t k, acts_at * acts) {
        for (int i = 0; i < n; ++i) {
            acts[i] = acts_at_column(layout, cols.acts[c + i], k);
        }
    }

    static void add_panel(const acts_layout & layout, const invariant_panel & panel, int64_t k, int n_k, const product_cols & cols, float * sums) {
        int64_t c = 0;
#if defined(INVARIANT_AMX)
        for (; has_amx() && cols.n - c >= N_COLS_AMX_MIN; c += N_COLS_AMX) {
            add_panel_amx(layout, panel, k, n_k, cols, c, sums);
        }
#endif
        for (; c < cols.n; c += N_COLS_MAX) {
            const int n = std::min<int64_t>(N_COLS_MAX, cols.n - c);

            acts_at acts[N_COLS_MAX];
            acts_at_columns(layout, cols, c, n, k, acts);
            add_products_of<T>(n, panel, n_k, acts, sums + c*N_ROWS);
        }
    }

#if defined(INVARIANT_AMX)
    static constexpr int N_COLS_AMX_MIN = 9; // fewer are quicker without

    static void add_panel_amx(const acts_layout & layout, const invariant_panel & panel, int64_t k, int n_k, const product_cols & cols, int64_t c, float * sums) {
        const int n = std::min<int64_t>(N_COLS_AMX, cols.n - c);

        acts_at acts[N_COLS_AMX];
        for (int i = 0; i < N_COLS_AMX; ++i) {
            acts[i] = acts_at_column(layout, cols.acts[c + std::min(i, n - 1)], k);
        }

        const size_t stride = layout.row_size;

        // a tile reads what is behind the last column too, and what it makes of it gets lost
        bool is_regular = true;
        for (int i = 1; is_regular && i < n; ++i) {
            is_regular = acts[i].q == acts[0].q + i*stride;
        }
        if (is_regular) {
            add_products_amx<T>(panel, n_k, acts, acts[0].q, stride, sums + c*N_ROWS);
            return;
        }

        alignas(64) int8_t q[N_COLS_AMX][N_PANEL];
        for (int i = 0; i < N_COLS_AMX; ++i) {
            memcpy(q[i], acts[i].q, n_k);
        }
        add_products_amx<T>(panel, n_k, acts, q[0], N_PANEL, sums + c*N_ROWS);
    }
#endif
};

template <ggml_type type>
struct product_of_floats {
    typedef dots_type<type> T;

    typedef typename T::W W;
    typedef typename T::A A;

    static int64_t act_block(const ggml_tensor *) {
        return N_ACT;
    }

    static size_t act_size(const ggml_tensor * dst) {
        return std::is_same_v<A, float> ? 0 : GGML_PAD(dst->src[0]->ne[0]*sizeof(A), 64);
    }

    static void convert(const product_op & op, int64_t row, int64_t k_begin, int64_t k_end) {
        if constexpr (std::is_same_v<A, ggml_bf16_t>) {
            A * dst = (A *) (op.acts + row*op.act_size);
            ggml_cpu_fp32_to_bf16((const float *) op.x_row(row) + k_begin, dst + k_begin, k_end - k_begin);
        }
    }

    // rows that stay in the cache while the columns pass
    static void multiply(const product_op & op, const product_rows & rows, const product_cols & cols) {
        const int64_t n_tile = std::max<int64_t>(1, L2_SIZE/2/(op.n_k*sizeof(W))/N_DOT_ROWS)*N_DOT_ROWS;

        for (int64_t begin = rows.begin; begin < rows.end; begin += n_tile) {
            const int64_t end = std::min(begin + n_tile, rows.end);

            for (int64_t c = 0; c < cols.n; c += N_DOT_COLS_MAX) {
                const int n = std::min<int64_t>(N_DOT_COLS_MAX, cols.n - c);
                for (int64_t r = begin; r < end; r += N_DOT_ROWS) {
                    multiply_tile(op, rows, r, std::min<int64_t>(N_DOT_ROWS, end - r), cols, c, n);
                }
            }
        }
    }

    static void multiply_tile(const product_op & op, const product_rows & rows, int64_t r, int64_t n_rows, const product_cols & cols, int64_t c, int n) {
        const W * w[N_DOT_ROWS];
        for (int i = 0; i < N_DOT_ROWS; ++i) {
            w[i] = (const W *) rows.at(r + i);
        }

        float * outs[N_DOT_COLS_MAX];
        float   rest[N_DOT_COLS_MAX][N_DOT_ROWS];
        for (int i = 0; i < n; ++i) {
            outs[i] = n_rows == N_DOT_ROWS ? cols.outs[c + i] + r : rest[i];
        }

        dot_rows_of<T>(n, op.n_k, w, (const A * const *) cols.acts + c, outs);

        if (n_rows < N_DOT_ROWS) {
            for (int i = 0; i < n; ++i) {
                memcpy(cols.outs[c + i] + r, rest[i], n_rows*sizeof(float));
            }
        }
    }
};

// any type: each dot product by itself, as ggml-cpu computes it for one column
struct product_of_rows {
    static const ggml_type_traits_cpu * traits(const ggml_tensor * dst) {
        return ggml_get_type_traits_cpu(dst->src[0]->type);
    }

    static int64_t act_block(const ggml_tensor * dst) {
        return std::max<int64_t>(N_ACT, ggml_blck_size(traits(dst)->vec_dot_type));
    }

    static size_t act_size(const ggml_tensor * dst) {
        const ggml_type type = traits(dst)->vec_dot_type;
        return dst->src[1]->type == type ? 0 : GGML_PAD(ggml_row_size(type, dst->src[0]->ne[0]), 64);
    }

    static void convert(const product_op & op, int64_t row, int64_t k_begin, int64_t k_end) {
        const ggml_type type = traits(op.dst)->vec_dot_type;

        const char * src = op.x_row(row) + ggml_row_size(op.x->type, k_begin);
        char       * dst = op.acts + row*op.act_size + ggml_row_size(type, k_begin);

        switch (op.x->type) {
            case GGML_TYPE_F16:  ggml_cpu_fp16_to_fp32((const ggml_fp16_t *) src, (float *) dst, k_end - k_begin); break;
            case GGML_TYPE_BF16: ggml_cpu_bf16_to_fp32((const ggml_bf16_t *) src, (float *) dst, k_end - k_begin); break;
            default:             ggml_get_type_traits_cpu(type)->from_float((const float *) src, dst, k_end - k_begin); break;
        }
    }

    static void multiply(const product_op & op, const product_rows & rows, const product_cols & cols) {
        const auto vec_dot = traits(op.dst)->vec_dot;

        for (int64_t begin = rows.begin; begin < rows.end; begin += N_ROWS) {
            const int64_t end = std::min(begin + N_ROWS, rows.end);

            for (int64_t c = 0; c < cols.n; ++c) {
                for (int64_t r = begin; r < end; ++r) {
                    vec_dot(op.n_k, cols.outs[c] + r, 0, rows.at(r), 0, cols.acts[c], 0, 1);
                }
            }
        }
    }
};

// calls f with the way to multiply codes, false for a type that has none
template <typename F>
static bool with_codes(ggml_type type, F f) {
    switch (type) {
        case GGML_TYPE_Q4_0:   f(product_of_codes<GGML_TYPE_Q4_0>());    return true;
        case GGML_TYPE_Q4_1:   f(product_of_codes<GGML_TYPE_Q4_1>());    return true;
        case GGML_TYPE_Q5_0:   f(product_of_codes<GGML_TYPE_Q5_0>());    return true;
        case GGML_TYPE_Q5_1:   f(product_of_codes<GGML_TYPE_Q5_1>());    return true;
        case GGML_TYPE_Q8_0:   f(product_of_codes<GGML_TYPE_Q8_0>());    return true;
        case GGML_TYPE_Q2_K:   f(product_of_codes<GGML_TYPE_Q2_K>());    return true;
        case GGML_TYPE_Q3_K:   f(product_of_codes<GGML_TYPE_Q3_K>());    return true;
        case GGML_TYPE_Q4_K:   f(product_of_codes<GGML_TYPE_Q4_K>());    return true;
        case GGML_TYPE_Q5_K:   f(product_of_codes<GGML_TYPE_Q5_K>());    return true;
        case GGML_TYPE_Q6_K:   f(product_of_codes<GGML_TYPE_Q6_K>());    return true;
        case GGML_TYPE_IQ4_NL: f(product_of_codes<GGML_TYPE_IQ4_NL>());  return true;
        case GGML_TYPE_IQ4_XS: f(product_of_codes<GGML_TYPE_IQ4_XS>());  return true;
        case GGML_TYPE_MXFP4:  f(product_of_codes<GGML_TYPE_MXFP4>());   return true;
        default:               return false;
    }
}

// calls f with the way to multiply dst
template <typename F>
static void with_product(const ggml_tensor * dst, F f) {
    if (dst->src[1]->type != GGML_TYPE_F32) {
        return f(product_of_rows());
    }

    const ggml_type type = dst->src[0]->type;

    switch (type) {
        case GGML_TYPE_F32:    f(product_of_floats<GGML_TYPE_F32>());  return;
        case GGML_TYPE_F16:    f(product_of_floats<GGML_TYPE_F16>());  return;
        case GGML_TYPE_BF16:   f(product_of_floats<GGML_TYPE_BF16>());  return;
        default: break;
    }
    if (!with_codes(type, f)) {
        f(product_of_rows());
    }
}

#endif // INVARIANT
