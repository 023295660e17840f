// rows of logits, and drawing tokens from them

#include "treellama-impl.h"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <functional>
#include <numeric>
#include <stdexcept>
#include <vector>

//
// logits
//

// rows are long and compilers may assume no more than SSE2 here: loops over a row are compiled for newer CPUs as well
#if defined(__GNUC__) && defined(__x86_64__) && defined(__gnu_linux__)
#define ROW_LOOP __attribute__((target_clones("avx512f", "avx2", "default")))
#else
#define ROW_LOOP
#endif

// running values, for the lanes of vectors
static constexpr int32_t n_lanes = 16;

#if defined(__GNUC__)
// anywhere in memory
typedef float lanes_t __attribute__((vector_size(n_lanes*sizeof(float)), aligned(sizeof(float)), may_alias));

// no compiler makes vectors of this by itself
static inline void lanes_max(lanes_t & lanes, const float * row) {
    const lanes_t & x = *(const lanes_t *) row;
    lanes = x > lanes ? x : lanes;
}
#else
struct lanes_t {
    float x[n_lanes];
    float & operator[](int32_t l) { return x[l]; }
};

static inline void lanes_max(lanes_t & lanes, const float * row) {
    for (int32_t l = 0; l < n_lanes; ++l) {
        lanes[l] = row[l] > lanes[l] ? row[l] : lanes[l];
    }
}
#endif

static inline void lanes_fill(lanes_t & lanes, float x) {
    for (int32_t l = 0; l < n_lanes; ++l) {
        lanes[l] = x;
    }
}

ROW_LOOP
static float row_max(const float * row, int32_t n) {
    lanes_t lanes;
    lanes_fill(lanes, -INFINITY);

    int32_t i = 0;
    for (; i + n_lanes <= n; i += n_lanes) {
        lanes_max(lanes, row + i);
    }

    float best = -INFINITY;
    for (int32_t l = 0; l < n_lanes; ++l) {
        best = lanes[l] > best ? lanes[l] : best;
    }
    for (; i < n; ++i) {
        best = row[i] > best ? row[i] : best;
    }
    return best;
}

// index of the first value that equals x, n if there is none
ROW_LOOP
static int32_t row_find(const float * row, int32_t n, float x) {
    constexpr int32_t n_part = 16*n_lanes;

    int32_t i = 0;
    for (; i + n_part <= n; i += n_part) {
        int32_t found = 0;
        for (int32_t l = 0; l < n_part; ++l) {
            found |= row[i + l] == x;
        }
        if (found) {
            break;
        }
    }
    while (i < n && row[i] != x) {
        ++i;
    }
    return i;
}

// the first of the largest values, as llama.cpp's greedy sampler chooses
static llama_token row_argmax(const float * row, int32_t n) {
    const int32_t found = row_find(row, n, row_max(row, n));
    return found == n ? 0 : found;
}

// exp(x) for x <= 0, to 2e-7 of it; 0 below -87 and for NaN. Standard libraries have none for vectors, and ggml_v_expf of
// ggml-cpu/vec.h is no substitute: it is compiled for the one instruction set that its library has, while these loops have
// several in one (libllama is the same for all CPU variants), its bits differ between them, and rows' ends go through expf
static inline float exp_of_negative(float x) {
    const float bounded = x > -87.0f ? x : -87.0f;

    const float round   = 12582912.0f; // 1.5*2^23
    const float shifted = bounded*1.44269504f + round;
    const float n       = shifted - round;
    const float r       = (bounded - n*0.693359375f) + n*2.12194440e-4f;

    float p = 1.0f/5040;
    p = p*r + 1.0f/720;
    p = p*r + 1.0f/120;
    p = p*r + 1.0f/24;
    p = p*r + 1.0f/6;
    p = p*r + 0.5f;
    p = p*r + 1.0f;
    p = p*r + 1.0f;

    int32_t bits;
    memcpy(&bits, &shifted, sizeof(bits));
    bits = (int32_t) ((uint32_t) (bits + 127) << 23);

    float scale;
    memcpy(&scale, &bits, sizeof(scale));
    return x > -87.0f ? p*scale : 0.0f;
}

// log(sum(exp(row))), summed in double now and then: a row has up to 256k terms
ROW_LOOP
static double row_log_sum_exp(const float * row, int32_t n, float max) {
    constexpr int32_t n_part = 64*n_lanes;

    double  sum = 0.0;
    int32_t i   = 0;
    while (i + n_lanes <= n) {
        float lanes[n_lanes] = {};

        const int32_t end = std::min(n, i + n_part);
        for (; i + n_lanes <= end; i += n_lanes) {
            for (int32_t l = 0; l < n_lanes; ++l) {
                lanes[l] += exp_of_negative(row[i + l] - max);
            }
        }
        for (int32_t l = 0; l < n_lanes; ++l) {
            sum += lanes[l];
        }
    }
    for (; i < n; ++i) {
        sum += exp_of_negative(row[i] - max);
    }
    return max + log(sum);
}

// a row in groups, each of as many blocks as there are lanes: a block has every n_lanes-th value of its group, so that its
// maximum is one lane's
static constexpr int32_t n_block = 64;
static constexpr int32_t n_group = n_block*n_lanes;

ROW_LOOP
static void row_block_maxima(const float * row, int32_t n_groups, float * maxima) {
    for (int32_t g = 0; g < n_groups; ++g) {
        lanes_t lanes;
        lanes_fill(lanes, -INFINITY);
        for (int32_t i = 0; i < n_group; i += n_lanes) {
            lanes_max(lanes, row + g*n_group + i);
        }
        memcpy(maxima + g*n_lanes, &lanes, sizeof(lanes));
    }
}

struct top_k_scratch {
    std::vector<float>       maxima;
    std::vector<float>       largest;
    std::vector<llama_token> ids;
};

// heap: the k largest so far, the least of them in front, which most values are below
static float kth_largest(const std::vector<float> & values, int32_t k, std::vector<float> & heap) {
    heap.assign(values.begin(), values.begin() + k);
    std::make_heap(heap.begin(), heap.end(), std::greater<float>());

    for (size_t i = k; i < values.size(); ++i) {
        if (values[i] > heap.front()) {
            std::pop_heap(heap.begin(), heap.end(), std::greater<float>());
            heap.back() = values[i];
            std::push_heap(heap.begin(), heap.end(), std::greater<float>());
        }
    }
    return heap.front();
}

// puts the k likeliest tokens in front of scratch.ids
static void row_top_k(const float * row, int32_t n, int32_t k, top_k_scratch & scratch) {
    auto & ids = scratch.ids;
    ids.clear();

    // the k-th largest of the blocks' maxima is a bound: k tokens at least are not below it
    const int32_t n_groups = n/n_group;
    const int32_t n_blocks = n_groups*n_lanes;
    if (k <= n_blocks) {
        scratch.maxima.resize(n_blocks);
        row_block_maxima(row, n_groups, scratch.maxima.data());

        const float bound = kth_largest(scratch.maxima, k, scratch.largest);

        const auto collect = [&](int32_t begin, int32_t end, int32_t step) {
            for (int32_t i = begin; i < end; i += step) {
                if (row[i] >= bound) {
                    ids.push_back(i);
                }
            }
        };
        for (int32_t b = 0; b < n_blocks; ++b) {
            if (scratch.maxima[b] >= bound) {
                const int32_t begin = b/n_lanes*n_group;
                collect(begin + b % n_lanes, begin + n_group, n_lanes);
            }
        }
        collect(n_groups*n_group, n, 1);
    }

    // a short row, or one of NaN
    if ((int32_t) ids.size() < k) {
        ids.resize(n);
        std::iota(ids.begin(), ids.end(), 0);
    }

    // a NaN is less than all numbers
    const auto value = [row](llama_token i) { return row[i] > -INFINITY ? row[i] : -INFINITY; };

    std::partial_sort(ids.begin(), ids.begin() + k, ids.end(), [value](llama_token a, llama_token b) {
        return value(a) != value(b) ? value(a) > value(b) : a < b;
    });
}

void treellama_argmax(const float * logits, int32_t n_rows, int32_t n_vocab, llama_token * tokens) {
    for (int32_t r = 0; r < n_rows; ++r) {
        tokens[r] = row_argmax(logits + (size_t) r*n_vocab, n_vocab);
    }
}

int32_t treellama_top_k(
        const float * logits, int32_t n_rows, int32_t n_vocab, int32_t k, bool normalise, llama_token * tokens, float * values) {
    return treellama_guard(TREELLAMA_EXCEPTION, [&] {
        top_k_scratch scratch;

        for (int32_t r = 0; r < n_rows; ++r) {
            const float * row = logits + (size_t) r*n_vocab;
            row_top_k(row, n_vocab, k, scratch);

            const double lse = normalise ? row_log_sum_exp(row, n_vocab, row[scratch.ids[0]]) : 0.0;
            for (int32_t i = 0; i < k; ++i) {
                tokens[(size_t) r*k + i] = scratch.ids[i];
                values[(size_t) r*k + i] = (float) (row[scratch.ids[i]] - lse);
            }
        }

        return 0;
    });
}

void treellama_logp(
        const float * logits, int32_t n_rows, int32_t n_vocab, const llama_token * tokens, float * logp) {
    for (int32_t r = 0; r < n_rows; ++r) {
        const float * row = logits + (size_t) r*n_vocab;
        logp[r] = (float) (row[tokens[r]] - row_log_sum_exp(row, n_vocab, row_max(row, n_vocab)));
    }
}

//
// sampling
//

llama_sampler * treellama_dry_init(
        const llama_vocab * vocab, float multiplier, float base, int32_t allowed_length, int32_t last_n,
        const char ** breakers, size_t n_breakers) {
    return treellama_guard((llama_sampler *) nullptr, [&] {
        return llama_sampler_init_dry(vocab, multiplier, base, allowed_length, last_n, breakers, n_breakers);
    });
}

llama_sampler * treellama_sampler_clone(const llama_sampler * sampler) {
    return treellama_guard((llama_sampler *) nullptr, [&] { return llama_sampler_clone(sampler); });
}

int32_t treellama_sampler_reset(llama_sampler * sampler) {
    return treellama_guard(TREELLAMA_EXCEPTION, [&] {
        llama_sampler_reset(sampler);
        return 0;
    });
}

// NaN breaks the order that sorting relies on, and infinity breaks softmax: both would be undefined behaviour further on
static llama_token_data_array all_candidates(
        const float * logits, int32_t n_vocab, const uint32_t * allowed, llama_token_data * scratch) {
    size_t n      = 0;
    bool   broken = false;
    for (llama_token id = 0; id < n_vocab; ++id) {
        if (!allowed || (allowed[id/32] >> (id%32)) & 1) {
            scratch[n++] = { id, logits[id], 0.0f };
            broken |= !(logits[id] < INFINITY);
        }
    }
    if (broken) {
        throw std::runtime_error("the logits hold NaN or +infinity");
    }
    return { scratch, n, /*.selected =*/ -1, /*.sorted =*/ false };
}

static bool any_possible(const llama_token_data_array & cur) {
    return std::any_of(cur.data, cur.data + cur.size, [](const llama_token_data & c) { return c.logit > -INFINITY; });
}

// LLAMA_TOKEN_NULL if the chain left nothing possible: a bias of -infinity may ban every candidate
static llama_token apply_chain(llama_sampler * chain, llama_token_data_array & cur) {
    llama_sampler_apply(chain, &cur);
    if (cur.selected < 0 || cur.selected >= (int64_t) cur.size) {
        throw std::runtime_error("the sampler chain selected no token");
    }

    const llama_token_data & chosen = cur.data[cur.selected];
    return chosen.logit > -INFINITY ? chosen.id : LLAMA_TOKEN_NULL;
}

int32_t treellama_draw(
        llama_sampler * chain, const float * logits, int32_t n_vocab, const uint32_t * allowed,
        llama_token_data * scratch, llama_token * token) {
    return treellama_guard(TREELLAMA_EXCEPTION, [&]() -> int32_t {
        auto cur = all_candidates(logits, n_vocab, allowed, scratch);
        if (!any_possible(cur)) {
            return TREELLAMA_NO_CANDIDATE;
        }

        *token = apply_chain(chain, cur);
        return *token == LLAMA_TOKEN_NULL ? TREELLAMA_NO_CANDIDATE : 0;
    });
}

int32_t treellama_accept(llama_sampler * sampler, llama_token token) {
    return treellama_accept_all(sampler, &token, 1);
}

int32_t treellama_accept_all(llama_sampler * sampler, const llama_token * tokens, int32_t n_tokens) {
    return treellama_guard(TREELLAMA_EXCEPTION, [&] {
        for (int32_t i = 0; i < n_tokens; ++i) {
            llama_sampler_accept(sampler, tokens[i]);
        }
        return 0;
    });
}
