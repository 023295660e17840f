// rows of logits: the largest, the k largest, log-probabilities

#include "treellama-impl.h"
#include "treellama-rows.h"

#include <algorithm>
#include <cmath>
#include <functional>
#include <numeric>

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

llama_token treellama_row_argmax(const float * row, int32_t n) {
    const int32_t found = row_find(row, n, row_max(row, n));
    return found == n ? 0 : found;
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

void treellama_row_top_k(const float * row, int32_t n, int32_t k, treellama_top_k_scratch & scratch) {
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
        tokens[r] = treellama_row_argmax(logits + (size_t) r*n_vocab, n_vocab);
    }
}

int32_t treellama_top_k(
        const float * logits, int32_t n_rows, int32_t n_vocab, int32_t k, bool normalise, llama_token * tokens, float * values) {
    return treellama_guard(TREELLAMA_EXCEPTION, [&] {
        treellama_top_k_scratch scratch;

        for (int32_t r = 0; r < n_rows; ++r) {
            const float * row = logits + (size_t) r*n_vocab;
            treellama_row_top_k(row, n_vocab, k, scratch);

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

int32_t treellama_top_logp(
        const float * row, int32_t n_vocab, llama_token token, float * logp,
        int32_t k, llama_token * top_tokens, float * top_logp) {
    return treellama_guard(TREELLAMA_EXCEPTION, [&] {
        treellama_top_k_scratch scratch;
        treellama_row_top_k(row, n_vocab, k, scratch);

        const double lse = row_log_sum_exp(row, n_vocab, row[scratch.ids[0]]);
        for (int32_t i = 0; i < k; ++i) {
            top_tokens[i] = scratch.ids[i];
            top_logp[i]   = (float) (row[scratch.ids[i]] - lse);
        }
        *logp = (float) (row[token] - lse);
        return 0;
    });
}
