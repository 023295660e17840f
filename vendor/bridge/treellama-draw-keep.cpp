// what the truncating stages keep of a row, in a few passes over it
//
// A draw must be the same on every CPU: sums have fixed lanes, exp is our own, and CMakeLists.txt lets no compiler contract
// products and sums here.

#include "treellama-draw-impl.h"

#include <algorithm>
#include <cmath>
#include <numeric>
#include <stdexcept>

//
// loops over a row
//

// false if the row holds NaN or +infinity
ROW_LOOP
static bool row_is_sound(const float * row, int32_t n) {
    int32_t broken = 0;
    for (int32_t i = 0; i < n; ++i) {
        broken |= !(row[i] < INFINITY);
    }
    return broken == 0;
}

// max: of the row, divided by the temperature. One sum a part
ROW_LOOP
static void row_part_sums(const float * row, int32_t n, float max, float temperature, double * sums) {
    int32_t i = 0;
    for (; i + treellama_n_part <= n; i += treellama_n_part) {
        float lanes[n_lanes] = {};
        for (int32_t k = i; k < i + treellama_n_part; k += n_lanes) {
            for (int32_t l = 0; l < n_lanes; ++l) {
                lanes[l] += treellama_weight(row[k + l], max, temperature);
            }
        }
        double sum = 0.0;
        for (int32_t l = 0; l < n_lanes; ++l) {
            sum += lanes[l];
        }
        *sums++ = sum;
    }
    if (i < n) {
        double sum = 0.0;
        for (; i < n; ++i) {
            sum += treellama_weight(row[i], max, temperature);
        }
        *sums = sum;
    }
}

// ids of the values that are not below the bound, in their order; ids has room for a whole row
ROW_LOOP
static int32_t row_collect(const float * row, int32_t n, float bound, llama_token * ids) {
    constexpr int32_t n_look = 4*n_lanes;

    int32_t count = 0;
    int32_t i     = 0;
    for (; i + n_look <= n; i += n_look) {
        int32_t found = 0;
        for (int32_t l = 0; l < n_look; ++l) {
            found |= row[i + l] >= bound;
        }
        if (found) {
            for (int32_t l = 0; l < n_look; ++l) {
                ids[count] = i + l;
                count += row[i + l] >= bound;
            }
        }
    }
    for (; i < n; ++i) {
        ids[count] = i;
        count += row[i] >= bound;
    }
    return count;
}

double treellama_sum_parts(treellama_kept & kept, float temperature) {
    kept.sums.resize((kept.n_vocab + treellama_n_part - 1)/treellama_n_part);
    row_part_sums(kept.row, kept.n_vocab, kept.max/temperature, temperature, kept.sums.data());
    return std::accumulate(kept.sums.begin(), kept.sums.end(), 0.0);
}

//
// bias, penalties, and tokens that are not allowed
//

static float penalised(float logit, int32_t count, const treellama_draw_params & params) {
    const float scaled = logit <= 0 ? logit*params.penalty_repeat : logit/params.penalty_repeat;
    return scaled - ((float) count*params.penalty_freq + params.penalty_present);
}

static void ban_others(float * row, int32_t n_vocab, const uint32_t * allowed) {
    for (int32_t i = 0; i < n_vocab; ++i) {
        row[i] = (allowed[i/32] >> (i%32)) & 1 ? row[i] : -INFINITY;
    }
}

// the row itself where nothing changes it
static const float * edited_row(
        const treellama_row_sampler & sampler, const float * logits, int32_t n_vocab, const uint32_t * allowed,
        std::vector<float> & edited) {
    if (sampler.biases.empty() && sampler.history.counts.empty() && !allowed) {
        return logits;
    }

    edited.assign(logits, logits + n_vocab);
    for (const auto & bias : sampler.biases) {
        edited[bias.token] += bias.bias;
    }
    for (const auto & [token, count] : sampler.history.counts) {
        edited[token] = penalised(edited[token], count, sampler.params);
    }
    if (allowed) {
        ban_others(edited.data(), n_vocab, allowed);
    }
    return edited.data();
}

//
// truncation
//

static void collect(treellama_kept & kept, float bound) {
    kept.room.resize(kept.n_vocab);
    const int32_t n = row_collect(kept.row, kept.n_vocab, bound, kept.room.data());
    kept.ids.assign(kept.room.begin(), kept.room.begin() + n);
}

// a token's key: keys rise where logits fall, ties by id
static uint64_t falling_key(float logit, llama_token id) {
    const float plain = logit + 0.0f; // -0 is 0

    uint32_t bits;
    memcpy(&bits, &plain, sizeof(bits));
    const uint32_t falling = bits & 0x80000000u ? bits : ~bits & 0x7fffffffu;
    return (uint64_t) falling << 32 | (uint32_t) id;
}

static llama_token id_of_key(uint64_t key) {
    return (llama_token) (uint32_t) key;
}

static void ids_to_keys(treellama_kept & kept) {
    kept.keys.clear();
    for (const llama_token id : kept.ids) {
        kept.keys.push_back(falling_key(kept.row[id], id));
    }
}

static void keys_to_ids(treellama_kept & kept) {
    std::transform(kept.keys.begin(), kept.keys.end(), kept.ids.begin(), id_of_key);
}

static void keep_top_k(treellama_kept & kept, int32_t k) {
    if (k < kept.n_vocab/64) {
        treellama_row_top_k(kept.row, kept.n_vocab, k, kept.top);
        kept.ids.assign(kept.top.ids.begin(), kept.top.ids.begin() + k);
    } else {
        collect(kept, -INFINITY);
        if ((size_t) k < kept.ids.size()) {
            ids_to_keys(kept);
            std::nth_element(kept.keys.begin(), kept.keys.begin() + k, kept.keys.end());
            keys_to_ids(kept);
            kept.ids.resize(k);
        }
    }
    kept.order = treellama_order::falling;
}

double treellama_sum_kept(const treellama_kept & kept, float temperature) {
    const float max = kept.max/temperature;

    double sum = 0.0;
    for (const llama_token id : kept.ids) {
        sum += treellama_weight(kept.row[id], max, temperature);
    }
    return sum;
}

size_t treellama_reach(treellama_kept & kept, double target, float temperature) {
    const float max    = kept.max/temperature;
    const auto  weight = [&](uint64_t key) { return treellama_weight(kept.row[id_of_key(key)], max, temperature); };

    ids_to_keys(kept);
    uint64_t * begin = kept.keys.data();
    uint64_t * end   = begin + kept.keys.size();

    // as in quicksort, but only the side in which the target is reached is looked into. Some orders of a row, such as a sorted one,
    // are cut badly again and again: after looks that cuts at random would not need, what is left is sorted
    double before = 0.0;
    for (ptrdiff_t n_looks = 8*(end - begin); n_looks > 0 && end - begin > 32; n_looks -= end - begin) {
        const uint64_t a = *begin, b = begin[(end - begin)/2], c = end[-1];
        const uint64_t pivot = std::max(std::min(a, b), std::min(std::max(a, b), c)); // not the least: both sides have some

        uint64_t * middle = std::partition(begin, end, [=](uint64_t key) { return key < pivot; });
        double     sum    = 0.0;
        for (const uint64_t * key = begin; key < middle; ++key) {
            sum += weight(*key);
        }
        if (before + sum >= target) {
            end = middle;
        } else {
            before += sum;
            begin   = middle;
        }
    }

    std::sort(begin, end);
    while (begin < end) {
        before += weight(*begin++);
        if (before >= target) {
            break;
        }
    }

    const size_t count = begin - kept.keys.data();
    keys_to_ids(kept);
    return count;
}

// collects, unsorted, at least the likeliest tokens that have `mass` of `sum`, or all that are not below `least`
static void collect_mass(treellama_kept & kept, double sum, double mass, float least) {
    // tokens less likely than `rest/n` of n tokens have less than `rest` together: none of them is needed
    const double rest   = sum - mass;
    const double lowest = rest/kept.n_vocab;

    for (double share = rest/64; share > lowest; share /= 16) {
        const float bound = kept.max + (float) std::min(0.0, log(share));
        collect(kept, std::max(bound, least));
        if (bound <= least || treellama_sum_kept(kept, 1.0f) >= mass) {
            return;
        }
    }
    collect(kept, std::max(kept.max + (float) log(lowest), least));
    if (treellama_sum_kept(kept, 1.0f) < mass) {
        collect(kept, least);
    }
}

static void keep_top_p(treellama_kept & kept, float top_p, float least) {
    double sum;
    if (kept.order == treellama_order::whole) {
        sum = treellama_sum_parts(kept, 1.0f);
        collect_mass(kept, sum, top_p*sum, least);
        kept.order = treellama_order::falling;
    } else {
        sum = treellama_sum_kept(kept, 1.0f);
    }
    kept.ids.resize(treellama_reach(kept, top_p*sum, 1.0f));
}

static void keep_min_p(treellama_kept & kept, float least) {
    if (kept.order == treellama_order::whole) {
        collect(kept, least);
        kept.order = treellama_order::by_id;
        return;
    }
    const auto below = [&](llama_token id) { return kept.row[id] < least; };
    kept.ids.erase(std::remove_if(kept.ids.begin(), kept.ids.end(), below), kept.ids.end());
}

bool treellama_keep(
        const treellama_row_sampler & sampler, const float * logits, int32_t n_vocab, const uint32_t * allowed,
        treellama_kept & kept) {
    const auto & params = sampler.params;

    kept.row     = edited_row(sampler, logits, n_vocab, allowed, kept.edited);
    kept.n_vocab = n_vocab;
    kept.order   = treellama_order::whole;
    if (!row_is_sound(kept.row, n_vocab)) {
        throw std::runtime_error("the logits hold NaN or +infinity");
    }

    const llama_token best = treellama_row_argmax(kept.row, n_vocab);
    kept.max = kept.row[best];
    if (kept.max == -INFINITY) {
        return false;
    }
    if (params.temperature == 0.0f) {
        kept.ids.assign(1, best);
        kept.order = treellama_order::falling;
        return true;
    }

    const float least = params.min_p > 0.0f ? kept.max + (float) log((double) params.min_p) : -INFINITY;
    if (params.top_k > 0) {
        keep_top_k(kept, params.top_k);
    }
    if (params.top_p < 1.0f) {
        keep_top_p(kept, params.top_p, least);
    }
    if (params.min_p > 0.0f) {
        keep_min_p(kept, least);
    }
    return true;
}
