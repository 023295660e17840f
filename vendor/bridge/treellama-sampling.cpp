// rows of logits, and drawing tokens from them

#include "treellama-impl.h"

#include "llama-grammar.h"

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

// exp(x) for x <= 0, to 2e-7 of it; 0 below -87 and for NaN. standard libraries have none for vectors
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

// What llama.cpp's grammar code cannot bear. Its parser prints errors instead of returning them. Its check for
// left recursion overlooks rules that are empty only through others, and then expands them for ever; and it
// visits every path through the rules, of which there can be exponentially many.
namespace {

struct grammar_checker {
    // ways in which one rule may begin: each can become a stack that is kept in memory
    static constexpr uint64_t n_ways_max    = 100*1000;
    // what llama.cpp's check visits
    static constexpr uint64_t n_visits_max  = 10*1000*1000;
    // and how deep it recurses
    static constexpr uint32_t n_depth_max   = 4096;

    explicit grammar_checker(const llama_vocab * vocab) : parser(vocab) {}

    void check(const char * text, const char * root) {
        parse(text);
        check_defined(root);
        find_nullable();
        check_visits();
        check_expansion();
    }

private:
    // a rule that may stand at the left end of another; is_tail: nothing comes after it there
    struct edge {
        uint32_t rule;
        bool     is_tail;
    };

    // one rule that a depth-first search has entered
    struct frame {
        uint32_t          rule;
        std::vector<edge> edges;
        size_t            next;
    };

    using alternative = std::pair<const llama_grammar_element *, const llama_grammar_element *>;

    static constexpr uint32_t NONE = UINT32_MAX;

    llama_grammar_parser     parser;
    std::vector<std::string> names;
    std::vector<bool>        is_empty; // some alternative has no elements: all that llama.cpp looks at
    std::vector<bool>        nullable; // may match nothing, through other rules too

    static const char * skip_space(const char * pos) {
        while (*pos && strchr(" \t\r\n#", *pos)) {
            pos += *pos == '#' ? strcspn(pos, "\r\n") : 1;
        }
        return pos;
    }

    void parse(const char * text) {
        for (const char * pos = skip_space(text); *pos; ) {
            pos = parser.parse_rule(pos);
        }
        if (parser.rules.empty()) {
            throw std::runtime_error("the grammar has no rules");
        }

        names.resize(parser.symbol_ids.size());
        for (const auto & [name, id] : parser.symbol_ids) {
            names[id] = name;
        }
    }

    bool is_defined(uint32_t id) const {
        return id < parser.rules.size() && !parser.rules[id].empty();
    }

    void check_defined(const char * root) const {
        const auto found = parser.symbol_ids.find(root);
        if (found == parser.symbol_ids.end() || !is_defined(found->second)) {
            throw std::runtime_error(std::string("the grammar does not define '") + root + "', the rule where it starts");
        }
        for (uint32_t id = 0; id < names.size(); ++id) {
            if (!is_defined(id)) {
                throw std::runtime_error("rule '" + names[id] + "' is used but not defined");
            }
        }
    }

    std::vector<alternative> alternatives(uint32_t id) const {
        std::vector<alternative> res;

        const llama_grammar_element * first = parser.rules[id].data();
        for (const llama_grammar_element * pos = first; ; ++pos) {
            if (pos->type == LLAMA_GRETYPE_ALT || pos->type == LLAMA_GRETYPE_END) {
                res.push_back({ first, pos });
                first = pos + 1;
            }
            if (pos->type == LLAMA_GRETYPE_END) {
                return res;
            }
        }
    }

    // a rule is nullable once some alternative of it has no element left that must match something
    void find_nullable() {
        const size_t n_rules = parser.rules.size();

        struct open_alternative { uint32_t rule; size_t n_left; };
        std::vector<open_alternative>    opens;
        std::vector<std::vector<size_t>> uses(n_rules); // the alternatives that refer to a rule
        std::vector<uint32_t>            todo;

        is_empty.assign(n_rules, false);
        nullable.assign(n_rules, false);

        const auto mark = [&](uint32_t id) {
            if (!nullable[id]) {
                nullable[id] = true;
                todo.push_back(id);
            }
        };

        for (uint32_t id = 0; id < n_rules; ++id) {
            for (const auto & [first, last] : alternatives(id)) {
                if (first == last) {
                    is_empty[id] = true;
                    mark(id);
                } else if (std::all_of(first, last, [](const auto & elem) { return elem.type == LLAMA_GRETYPE_RULE_REF; })) {
                    for (const auto * pos = first; pos != last; ++pos) {
                        uses[pos->value].push_back(opens.size());
                    }
                    opens.push_back({ id, (size_t) (last - first) });
                }
            }
        }

        while (!todo.empty()) {
            const uint32_t id = todo.back();
            todo.pop_back();
            for (const size_t i : uses[id]) {
                if (--opens[i].n_left == 0) {
                    mark(opens[i].rule);
                }
            }
        }
    }

    std::vector<edge> left_edges(uint32_t id, const std::vector<bool> & may_skip) const {
        std::vector<edge> res;
        for (const auto & [first, last] : alternatives(id)) {
            for (const auto * pos = first; pos != last && pos->type == LLAMA_GRETYPE_RULE_REF; ++pos) {
                res.push_back({ pos->value, pos + 1 == last });
                if (!may_skip[pos->value]) {
                    break;
                }
            }
        }
        return res;
    }

    [[noreturn]] void refuse_left_recursion(uint32_t id) const {
        throw std::runtime_error("rule '" + names[id] + "' is left-recursive: it may begin with itself; "
                "write lists with * or +, or put something that must match in front");
    }

    // the walk of llama.cpp's own check, counted instead of taken
    void check_visits() const {
        const size_t n_rules = parser.rules.size();

        std::vector<uint64_t> n_visits(n_rules, 0); // 0: not entered yet
        std::vector<uint32_t> depths  (n_rules, 0); // 0: not left yet
        uint64_t              n_visits_sum = 0;

        for (uint32_t start = 0; start < n_rules; ++start) {
            if (n_visits[start] > 0) {
                continue;
            }

            std::vector<frame>    path;
            std::vector<uint32_t> depth_below; // of each rule on the path
            const auto enter = [&](uint32_t id) {
                n_visits[id] = 1;
                path.push_back({ id, left_edges(id, is_empty), 0 });
                depth_below.push_back(0);
            };

            enter(start);
            while (!path.empty()) {
                frame & top = path.back();
                if (top.next == top.edges.size()) {
                    depths[top.rule] = depth_below.back() + 1;
                    path.pop_back();
                    depth_below.pop_back();
                    continue;
                }

                const uint32_t id = top.edges[top.next].rule;
                if (n_visits[id] == 0) {
                    enter(id);
                    continue;
                }
                if (depths[id] == 0) {
                    refuse_left_recursion(id);
                }

                n_visits[top.rule] += n_visits[id];
                depth_below.back() = std::max(depth_below.back(), depths[id]);
                top.next++;

                if (n_visits[top.rule] > n_visits_max || depth_below.back() >= n_depth_max) {
                    refuse_complexity(top.rule);
                }
            }

            n_visits_sum += n_visits[start];
            if (n_visits_sum > n_visits_max) {
                refuse_complexity(start);
            }
        }
    }

    // A rule that comes back to itself at its left end grows the stack each time round, unless it always stands
    // last: then the stack is one that was seen before. Rules that reach each other are found as Tarjan does.
    void check_expansion() const {
        const size_t n_rules = parser.rules.size();

        std::vector<uint32_t> order  (n_rules, NONE); // when a rule was entered
        std::vector<uint32_t> low    (n_rules, NONE); // the earliest rule on the stack that it reaches
        std::vector<bool>     pending(n_rules, false);
        std::vector<uint64_t> n_ways (n_rules, 0);
        std::vector<uint32_t> stack;
        uint32_t              n_entered = 0;

        for (uint32_t start = 0; start < n_rules; ++start) {
            if (order[start] != NONE) {
                continue;
            }

            std::vector<frame> path;
            const auto enter = [&](uint32_t id) {
                order[id] = low[id] = n_entered++;
                pending[id] = true;
                stack.push_back(id);
                path.push_back({ id, left_edges(id, nullable), 0 });
            };

            enter(start);
            while (!path.empty()) {
                frame & top = path.back();
                if (top.next < top.edges.size()) {
                    const uint32_t id = top.edges[top.next].rule;
                    if (order[id] == NONE) {
                        enter(id);
                        continue;
                    }
                    if (pending[id]) {
                        low[top.rule] = std::min(low[top.rule], low[id]);
                    }
                    top.next++;
                    continue;
                }

                const uint32_t id = top.rule;
                path.pop_back();
                if (low[id] == order[id]) {
                    std::vector<uint32_t> group;
                    do {
                        group.push_back(stack.back());
                        stack.pop_back();
                    } while (group.back() != id);
                    check_group(group, pending, n_ways);
                }
            }
        }
    }

    // rules that reach each other at their left ends, and are pending; what they reach besides was checked before
    void check_group(const std::vector<uint32_t> & group, std::vector<bool> & pending, std::vector<uint64_t> & n_ways) const {
        uint64_t n = 0;
        for (const uint32_t id : group) {
            n++;
            for (const edge & left : left_edges(id, nullable)) {
                if (pending[left.rule] && !left.is_tail) {
                    refuse_left_recursion(left.rule);
                }
                n += pending[left.rule] ? 0 : n_ways[left.rule];
                if (n > n_ways_max) {
                    refuse_complexity(id);
                }
            }
        }
        for (const uint32_t id : group) {
            n_ways[id]  = n;
            pending[id] = false;
        }
    }

    [[noreturn]] void refuse_complexity(uint32_t id) const {
        throw std::runtime_error("rule '" + names[id] + "' is too complex: it may begin in too many ways, "
                "or through too many other rules; say more in fewer rules");
    }
};

} // namespace

llama_sampler * treellama_grammar_init(const llama_vocab * vocab, const char * grammar, const char * root) {
    return treellama_guard((llama_sampler *) nullptr, [&] {
        grammar_checker(vocab).check(grammar, root);

        llama_sampler * res = llama_sampler_init_grammar(vocab, grammar, root);
        if (!res) {
            throw std::runtime_error("llama.cpp refuses the grammar");
        }
        return res;
    });
}

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

static bool grammar_allows(llama_sampler * grammar, llama_token token) {
    llama_token_data       one = { token, 1.0f, 0.0f };
    llama_token_data_array cur = { &one, 1, /*.selected =*/ -1, /*.sorted =*/ false };

    llama_sampler_apply(grammar, &cur);

    return one.logit > -INFINITY;
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
        llama_sampler * chain, llama_sampler * grammar,
        const float * logits, int32_t n_vocab, const uint32_t * allowed,
        llama_token_data * scratch, llama_token * token) {
    return treellama_guard(TREELLAMA_EXCEPTION, [&]() -> int32_t {
        auto cur = all_candidates(logits, n_vocab, allowed, scratch);
        if (!any_possible(cur)) {
            return TREELLAMA_NO_CANDIDATE;
        }

        *token = apply_chain(chain, cur);
        if (*token == LLAMA_TOKEN_NULL) {
            return TREELLAMA_NO_CANDIDATE;
        }
        if (!grammar || grammar_allows(grammar, *token)) {
            return 0;
        }

        cur = all_candidates(logits, n_vocab, allowed, scratch);
        llama_sampler_apply(grammar, &cur);
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

int32_t treellama_grammar_accept(llama_sampler * grammar, llama_token token) {
    return treellama_guard(TREELLAMA_EXCEPTION, [&]() -> int32_t {
        if (!grammar_allows(grammar, token)) {
            return TREELLAMA_NO_CANDIDATE;
        }
        llama_sampler_accept(grammar, token);
        return 0;
    });
}

int32_t treellama_sample(
        llama_sampler * chain, llama_sampler * grammar,
        const float * logits, int32_t n_vocab, const uint32_t * allowed,
        llama_token_data * scratch, llama_token * token) {
    int32_t status = treellama_draw(chain, grammar, logits, n_vocab, allowed, scratch, token);
    if (status == 0) {
        status = treellama_accept(chain, *token);
    }
    if (status == 0 && grammar) {
        status = treellama_accept(grammar, *token);
    }
    return status;
}
