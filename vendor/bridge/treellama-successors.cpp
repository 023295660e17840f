// the table of the recycling drafter: the likeliest successors behind one, two and three tokens, and how often such
// successors came true. It is asked and taught at every step, which in Python would take as long as a tenth of a
// small model's pass.

#include "treellama-best-first.h"
#include "treellama-impl.h"

#include <algorithm>
#include <array>
#include <cmath>
#include <list>
#include <unordered_map>
#include <vector>

namespace {

constexpr int MAX_ORDER = TREELLAMA_SUCCESSORS_ORDER_MAX;
constexpr int MAX_ROW   = TREELLAMA_SUCCESSORS_ROW_MAX;
constexpr int N_CLASSES = TREELLAMA_SUCCESSORS_N_CLASSES;
constexpr int KEY_BITS  = 21; // of one id in a key

static_assert(TREELLAMA_SUCCESSORS_N_VOCAB_MAX == 1 << KEY_BITS, "any id that is allowed must fit into a key");
static_assert(MAX_ORDER*KEY_BITS < 64, "the ids of the longest context must fit into a key");

// classes of a successor's share of what its row kept: their bounds, and what to take them for
constexpr std::array<float,  N_CLASSES - 1> SHARE_BOUNDS = { 0.01f, 0.03f, 0.07f, 0.15f, 0.3f, 0.5f, 0.7f, 0.85f, 0.95f, 0.99f };
constexpr std::array<double, N_CLASSES>     SHARES       = { 0.005, 0.02, 0.05, 0.1, 0.22, 0.4, 0.6, 0.77, 0.9, 0.97, 0.995 };

// Until told otherwise, this much of a share is believed: by the length of the context that the row was found under,
// then the same where a longer context had a row as well.
constexpr double PRIOR_TRUST[2][MAX_ORDER] = { { 0.35, 0.6, 0.75 }, { 0.1, 0.2, 0.3 } };
constexpr double PRIOR_WEIGHT = 6.0;
constexpr double DECAY        = 0.999; // a token; of what was counted a thousand tokens ago, a third is left

struct successor {
    int32_t token;
    int32_t share; // its class
};

using successor_row = std::vector<successor>;

struct entry {
    int64_t       key;
    successor_row row;
};

// rows by context, the newest last
class rows_of_length {
public:
    void put(int64_t key, const successor_row & row, size_t max_entries) {
        const auto found = places.find(key);
        if (found != places.end()) {
            found->second->row = row;
            entries.splice(entries.end(), entries, found->second);
            return;
        }
        places[key] = entries.insert(entries.end(), { key, row });
        while (entries.size() > max_entries) {
            places.erase(entries.front().key);
            entries.pop_front();
        }
    }

    const successor_row * find(int64_t key) const {
        const auto found = places.find(key);
        return found == places.end() ? nullptr : &found->second->row;
    }

    void clear() {
        places.clear();
        entries.clear();
    }

    std::list<entry> entries;

private:
    std::unordered_map<int64_t, std::list<entry>::iterator> places;
};

// the last tokens of a text, at most MAX_ORDER
struct context_end {
    std::array<int32_t, MAX_ORDER> tokens; // the last one first
    int                            n;

    context_end(const int32_t * text, int32_t n_text) : n(std::min(n_text, MAX_ORDER)) {
        for (int i = 0; i < n; ++i) {
            tokens[i] = text[n_text - 1 - i];
        }
    }

    context_end after(int32_t token) const {
        context_end moved = *this;
        moved.n = std::min(n + 1, MAX_ORDER);
        for (int i = moved.n - 1; i > 0; --i) {
            moved.tokens[i] = tokens[i - 1];
        }
        moved.tokens[0] = token;
        return moved;
    }

    // of its last `length` tokens
    int64_t key(int length) const {
        int64_t key = 0;
        for (int i = length - 1; i >= 0; --i) {
            key = key << KEY_BITS | tokens[i];
        }
        return key;
    }
};

}

struct treellama_successors {
    size_t         max_entries;
    rows_of_length rows[MAX_ORDER]; // by length - 1

    double n_seen [2][MAX_ORDER][N_CLASSES] = {};
    double n_right[2][MAX_ORDER][N_CLASSES] = {};

    explicit treellama_successors(size_t max_entries) : max_entries(max_entries) {}

    double trust(bool backed_off, int length, int share) const {
        const double prior = PRIOR_WEIGHT*PRIOR_TRUST[backed_off][length]*SHARES[share];
        return (prior + n_right[backed_off][length][share])/(PRIOR_WEIGHT + n_seen[backed_off][length][share]);
    }

    // f(token, share, length - 1, whether a longer context had a row) for every successor; each token once
    template <typename F>
    void each(const context_end & context, F && f) const {
        std::array<int32_t, MAX_ORDER*MAX_ROW> known;
        int n_known = 0;

        for (int length = context.n; length > 0; --length) {
            const successor_row * row = rows[length - 1].find(context.key(length));
            if (!row) {
                continue;
            }
            const bool backed_off = n_known > 0;
            for (const successor & next : *row) {
                if (std::find(known.begin(), known.begin() + n_known, next.token) == known.begin() + n_known) {
                    known[n_known++] = next.token;
                    f(next.token, next.share, length - 1, backed_off);
                }
            }
        }
    }

    // f(token, p), the probabilities summing to no more than 1
    template <typename F>
    void each_likely(const context_end & context, double min_p, F && f) const {
        double left = 1.0;

        each(context, [&](int32_t token, int share, int length, bool backed_off) {
            const double p = std::min(trust(backed_off, length, share), left);
            left -= p;
            if (p >= min_p) {
                f(token, p);
            }
        });
    }
};

treellama_successors * treellama_successors_new(int64_t max_entries) {
    return treellama_catch((treellama_successors *) nullptr, [&] { return new treellama_successors(max_entries); });
}

void treellama_successors_free(treellama_successors * table) {
    delete table;
}

int64_t treellama_successors_size(const treellama_successors * table, int32_t length) {
    return (int64_t) table->rows[length - 1].entries.size();
}

static successor_row make_row(const int32_t * tokens, const float * logits, int32_t k) {
    std::array<float, MAX_ROW> shares;
    float sum = 0.0f;
    for (int32_t i = 0; i < k; ++i) {
        shares[i] = std::exp(logits[i] - logits[0]);
        sum += shares[i];
    }

    successor_row row(k);
    for (int32_t i = 0; i < k; ++i) {
        const auto bound = std::lower_bound(SHARE_BOUNDS.begin(), SHARE_BOUNDS.end(), shares[i]/sum);
        row[i] = { tokens[i], (int32_t) (bound - SHARE_BOUNDS.begin()) };
    }

    return row;
}

int32_t treellama_successors_learn(
        treellama_successors * table, const int32_t * text, int32_t n_text, const int32_t * tokens,
        const int32_t * parents, int32_t n_nodes, const int32_t * next, const float * logits, int32_t n_next, int32_t k) {
    return treellama_catch(TREELLAMA_EXCEPTION, [&] {
        const context_end before(text, n_text);

        std::vector<context_end> contexts;
        contexts.reserve(n_nodes);

        for (int32_t i = 0; i < n_nodes; ++i) {
            const context_end & above = parents[i] < 0 ? before : contexts[parents[i]];
            contexts.push_back(above.after(tokens[i]));

            const successor_row row = make_row(next + (int64_t) i*n_next, logits + (int64_t) i*n_next, k);
            for (int length = 1; length <= contexts[i].n; ++length) {
                table->rows[length - 1].put(contexts[i].key(length), row, table->max_entries);
            }
        }

        return 0;
    });
}

void treellama_successors_judge(
        treellama_successors * table, const int32_t * text, int32_t n_text, const int32_t * went_on, int32_t n) {
    context_end context(text, n_text);

    for (int32_t i = 0; i < n; ++i) {
        table->each(context, [&](int32_t token, int share, int length, bool backed_off) {
            table->n_seen [backed_off][length][share] += 1.0;
            table->n_right[backed_off][length][share] += token == went_on[i];
        });
        context = context.after(went_on[i]);
    }

    const double keep = std::pow(DECAY, n);
    for (double * counts : { &table->n_seen[0][0][0], &table->n_right[0][0][0] }) {
        for (int i = 0; i < 2*MAX_ORDER*N_CLASSES; ++i) {
            counts[i] *= keep;
        }
    }
}

int32_t treellama_successors_of(
        const treellama_successors * table, const int32_t * text, int32_t n_text, double min_p, int32_t * tokens, double * p) {
    int32_t n = 0;

    table->each_likely(context_end(text, n_text), min_p, [&](int32_t token, double p_token) {
        tokens[n] = token;
        p[n++]    = p_token;
    });

    return n;
}

int32_t treellama_successors_grow(
        const treellama_successors * table, const int32_t * text, int32_t n_text, int32_t n_nodes, int32_t max_depth,
        double min_p, int32_t * tokens, int32_t * parents, double * p) {
    return treellama_catch(TREELLAMA_EXCEPTION, [&] {
        struct node {
            double      p;
            int32_t     token;
            int32_t     parent;
            int32_t     depth;
            context_end context; // with the token
        };
        treellama::best_first<node> tree(n_nodes);

        const auto follow_up = [&](int32_t parent, const context_end & context, double p_path, int32_t depth) {
            if (depth < max_depth && p_path > 0.0) {
                table->each_likely(context, min_p/p_path, [&](int32_t token, double p_token) {
                    if (tree.takes(p_path*p_token)) {
                        tree.add({ p_path*p_token, token, parent, depth + 1, context.after(token) });
                    }
                });
            }
        };

        follow_up(-1, context_end(text, n_text), 1.0, 0);
        for (size_t i = 0; i < tree.order.size(); ++i) {
            const node best = tree.nodes[tree.order[i]];
            follow_up(tree.order[i], best.context, best.p, best.depth);
        }

        return tree.write(tokens, parents, p);
    });
}

//
// all of it, for a file
//

int32_t treellama_successors_max_row(const treellama_successors * table) {
    size_t k = 0;
    for (const auto & of_length : table->rows) {
        for (const entry & one : of_length.entries) {
            k = std::max(k, one.row.size());
        }
    }
    return (int32_t) k;
}

void treellama_successors_get(
        const treellama_successors * table, int32_t length, int32_t k, int64_t * keys, int32_t * tokens, int32_t * shares) {
    int64_t i = 0;
    for (const entry & one : table->rows[length - 1].entries) {
        keys[i] = one.key;
        for (int32_t j = 0; j < k; ++j) {
            const bool known = j < (int32_t) one.row.size();
            tokens[i*k + j] = known ? one.row[j].token : -1;
            shares[i*k + j] = known ? one.row[j].share :  0;
        }
        i++;
    }
}

int32_t treellama_successors_set(
        treellama_successors * table, int32_t length, int64_t n, int32_t k, const int64_t * keys, const int32_t * tokens,
        const int32_t * shares) {
    return treellama_catch(TREELLAMA_EXCEPTION, [&] {
        auto & of_length = table->rows[length - 1];
        of_length.clear();
        for (int64_t i = 0; i < n; ++i) {
            successor_row row;
            for (int32_t j = 0; j < k && tokens[i*k + j] >= 0; ++j) {
                row.push_back({ tokens[i*k + j], shares[i*k + j] });
            }
            of_length.put(keys[i], row, table->max_entries);
        }
        return 0;
    });
}

double * treellama_successors_counts(treellama_successors * table, bool right) {
    return right ? &table->n_right[0][0][0] : &table->n_seen[0][0][0];
}
