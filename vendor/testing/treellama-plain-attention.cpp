// the order in which attention sums, one number after the other: what the kernels are compared with

#include "treellama-attention.h"
#include "treellama-impl.h"

#include "ggml.h"
#include "ordered/order.h"

#include <algorithm>
#include <cmath>
#include <stdexcept>
#include <utility>
#include <vector>

// the exponential function is the CPU backend's own, where it is a library that is linked
extern "C" __attribute__((weak)) double ggml_vec_soft_max_f32(const int n, float * y, const float * x, float max);

static constexpr int N_BLOCK = 64;  // positions between changes of the running maximum
static constexpr int N_CHUNK = 256; // positions that are summed from nothing
static constexpr int N_LANES = 16;  // positions apart that a sum of weights has in common

namespace {

struct row_sums {
    float M = -INFINITY;
    float S = 0.0f;
    std::vector<float> O;

    explicit row_sums(int64_t n) : O(n, 0.0f) {}

    void scale(float x) {
        S *= x;
        for (auto & o : O) {
            o *= x;
        }
    }

    void join(const row_sums & x) {
        if (x.M == -INFINITY) {
            return;
        }

        const float top = std::max(M, x.M);
        const float a   = expf(M - top);
        const float b   = expf(x.M - top);

        S = fmaf(S, a, x.S*b);
        for (size_t i = 0; i < O.size(); ++i) {
            O[i] = fmaf(O[i], a, x.O[i]*b);
        }
        M = top;
    }
};

// a cell as one row sees it
struct seen_cell {
    const float * k;
    const float * v;
    float         mask;
    int32_t       pos;
};

struct plain_row {
    const treellama_attention_params & p;
    const float * q;
    float slope;

    float score(const seen_cell & cell) const {
        float s = 0.0f;
        for (int32_t d = 0; d < p.n_embd_k; ++d) {
            s = fmaf(cell.k[d], q[d], s);
        }

        s *= p.softcap != 0.0f ? p.scale/p.softcap : p.scale;
        if (p.softcap != 0.0f) {
            s = tanhf(s)*p.softcap;
        }
        return fmaf(cell.mask, slope, s);
    }

    void add_block(row_sums & sums, const seen_cell * cells, int64_t n) const {
        std::vector<float> w((n + N_LANES - 1)/N_LANES*N_LANES, -INFINITY);

        float M = -INFINITY;
        for (int64_t j = 0; j < n; ++j) {
            w[j] = score(cells[j]);
            M    = w[j] > M ? w[j] : M;
        }
        if (M == -INFINITY) {
            return;
        }

        if (M > sums.M) {
            sums.scale(expf(sums.M - M));
            sums.M = M;
        }
        ggml_vec_soft_max_f32((int) w.size(), w.data(), w.data(), sums.M);

        float lanes[N_LANES] = {};
        for (int64_t j = 0; j < n; ++j) {
            lanes[cells[j].pos%N_LANES] += w[j];
            for (int32_t d = 0; d < p.n_embd_v && w[j] != 0.0f; ++d) {
                sums.O[d] = fmaf(cells[j].v[d], w[j], sums.O[d]);
            }
        }
        for (int l = N_LANES/2; l > 0; l /= 2) {
            for (int i = 0; i < l; ++i) {
                lanes[i] += lanes[i + l];
            }
        }
        sums.S += lanes[0];
    }

    // by rising position
    row_sums sum(const std::vector<seen_cell> & cells) const {
        row_sums total(p.n_embd_v);

        for (size_t i = 0; i < cells.size();) {
            row_sums chunk(p.n_embd_v);

            const int32_t i_chunk = cells[i].pos/N_CHUNK;
            while (i < cells.size() && cells[i].pos/N_CHUNK == i_chunk) {
                size_t e = i;
                while (e < cells.size() && cells[e].pos/N_BLOCK == cells[i].pos/N_BLOCK) {
                    ++e;
                }
                add_block(chunk, cells.data() + i, e - i);
                i = e;
            }
            total.join(chunk);
        }
        return total;
    }
};

void finish(row_sums & sums, const float * sink) {
    if (sink && *sink > sums.M) {
        const float ms = expf(sums.M - *sink);
        for (auto & o : sums.O) {
            o *= ms;
        }
        sums.S = fmaf(sums.S, ms, 1.0f);
    } else if (sink) {
        sums.S += expf(*sink - sums.M);
    }

    const float inverse = sums.S == 0.0f ? 0.0f : 1.0f/sums.S;
    for (auto & o : sums.O) {
        o *= inverse;
    }
}

// what a cache of this type gives back
std::vector<float> stored(ggml_type type, const float * data, int64_t n_rows, int64_t n) {
    std::vector<float> res(data, data + n_rows*n);
    if (type != GGML_TYPE_F32) {
        std::vector<char> rows(ggml_row_size(type, n)*n_rows);
        ggml_quantize_chunk(type, data, rows.data(), 0, n_rows, n, nullptr);
        ggml_get_type_traits(type)->to_float(rows.data(), res.data(), n_rows*n);
    }
    return res;
}

float slope(int32_t head, int32_t n_head, float max_bias) {
    if (max_bias <= 0.0f) {
        return 1.0f;
    }

    const uint32_t n_log2 = 1u << (uint32_t) floor(log2(n_head));

    const float m0 = powf(2.0f, -max_bias/n_log2);
    const float m1 = powf(2.0f, -(max_bias/2.0f)/n_log2);

    return (uint32_t) head < n_log2 ? powf(m0, head + 1) : powf(m1, 2*(head - n_log2) + 1);
}

// cells and positions of all parts of a group, which all of its tokens see
std::vector<std::pair<int32_t, int32_t>> cells_of_group(const int32_t * order, const int32_t * head) {
    std::vector<std::pair<int32_t, int32_t>> res;
    for (int32_t i = 0; i < head[2]; ++i) {
        const int32_t * part = order + head[3] + i*FATTN_ORDER_PART;
        for (int32_t j = part[2]; j < part[2] + part[3]; ++j) {
            res.emplace_back(order[j], order[j + order[2]]);
        }
    }
    return res;
}

} // namespace

int32_t treellama_attention_plain(const treellama_attention_params * p, const float * q, const float * k, const float * v,
        const float * mask, const int32_t * order, const float * sinks, float * out) {
    return treellama_catch(TREELLAMA_EXCEPTION, [&] {
        if (!ggml_vec_soft_max_f32 || p->n_streams != 1) {
            throw std::runtime_error("plain attention needs a linked CPU backend, and one stream");
        }

        const auto ks = stored(p->type_k, k, (int64_t) p->n_kv*p->n_head_kv, p->n_embd_k);
        const auto vs = stored(p->type_v, v, (int64_t) p->n_kv*p->n_head_kv, p->n_embd_v);

        for (int32_t g = 0; g < order[0]; ++g) {
            const int32_t * head  = order + FATTN_ORDER_HEAD + p->n_tokens + FATTN_ORDER_GROUP*g;
            const auto      cells = cells_of_group(order, head);

            for (int32_t i = 0; i < head[0]*p->n_head; ++i) {
                const int32_t token = order[head[1] + i/p->n_head];
                const int32_t h     = i%p->n_head;
                const int32_t h_kv  = h/(p->n_head/p->n_head_kv);

                std::vector<seen_cell> seen;
                for (const auto & [cell, pos] : cells) {
                    const float m = ggml_fp16_to_fp32(ggml_fp32_to_fp16(mask[(int64_t) token*p->n_kv + cell]));
                    if (m > -INFINITY) {
                        const int64_t row = (int64_t) cell*p->n_head_kv + h_kv;
                        seen.push_back({ &ks[row*p->n_embd_k], &vs[row*p->n_embd_v], m, pos });
                    }
                }

                const int64_t row = (int64_t) token*p->n_head + h;

                row_sums sums = plain_row { *p, q + row*p->n_embd_k, slope(h, p->n_head, p->max_bias) }.sum(seen);
                finish(sums, sinks ? sinks + h : nullptr);
                std::copy(sums.O.begin(), sums.O.end(), out + row*p->n_embd_v);
            }
        }
        return 0;
    });
}
