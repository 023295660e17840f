// the trees that heads guess, level by level

#include "treellama-best-first.h"
#include "treellama-heads-impl.h"

#include <algorithm>
#include <cmath>
#include <vector>

using namespace treellama;

namespace {

struct node {
    double  p;
    int32_t token;
    int32_t parent;
    int32_t depth;
    int32_t row; // of what is guessed behind it; -1 if that is not known
};

// a tree that hangs on a root
struct growing {
    treellama_heads & heads;
    const int32_t     n_threads;
    const float *     hidden;
    const llama_token root;
    const int32_t     top;

    best_first<node>          tree;
    std::vector<node> &       nodes;
    std::vector<head_guesses> rows; // the first is what is guessed behind the root

    growing(treellama_heads & heads, int32_t n_threads, const float * hidden, llama_token root, int32_t top, int32_t n_nodes) :
        heads(heads), n_threads(n_threads), hidden(hidden), root(root), top(top), tree(n_nodes), nodes(tree.nodes) {
        // heads that see no guesses have all their rows at once
        const int32_t n_first = heads.is_sequential() ? 1 : heads.facts.n_heads;
        rows = heads.rows_of(heads.run(n_threads, 0, n_first, 1, hidden, &root), n_first, heads.facts.n_rows, top);
    }

    // nodes of one depth get to know what is guessed behind them
    void take_up(const std::vector<int32_t> & taken) {
        const int32_t n    = (int32_t) taken.size();
        const int32_t head = nodes[taken[0]].depth + 1;

        if (!heads.is_sequential()) {
            for (const int32_t i : taken) {
                nodes[i].row = head;
            }
            return;
        }

        // widths are powers of two, so that there are few graphs
        int32_t n_cols = 1;
        while (n_cols < n) {
            n_cols *= 2;
        }

        const int32_t n_seen = heads.n_seen(head);
        std::vector<int32_t> seen(n_cols*n_seen, root);
        for (int32_t i = 0; i < n; ++i) {
            int32_t at = taken[i];
            for (int32_t j = n_seen - 1; j > 0; --j) {
                seen[i*n_seen + j] = nodes[at].token;
                at = nodes[at].parent;
            }
        }

        const float * logits = heads.run(n_threads, head, 1, n_cols, hidden, seen.data());
        for (head_guesses & row : heads.rows_of(logits, n, heads.n_rows_of(head), top)) {
            rows.push_back(std::move(row));
        }
        for (int32_t i = 0; i < n; ++i) {
            nodes[taken[i]].row = (int32_t) rows.size() - n + i;
        }
    }

    node child(int32_t parent, int32_t rank) const {
        const bool           is_root = parent < 0;
        const head_guesses & row     = rows[is_root ? 0 : nodes[parent].row];
        return {
            /*.p      =*/ (is_root ? 1.0 : nodes[parent].p)*std::exp((double) row.logp[rank]),
            /*.token  =*/ row.tokens[rank],
            /*.parent =*/ parent,
            /*.depth  =*/ is_root ? 0 : nodes[parent].depth + 1,
            /*.row    =*/ -1,
        };
    }

    void add_children(int32_t parent, double min_p) {
        const int32_t n = (int32_t) rows[parent < 0 ? 0 : nodes[parent].row].tokens.size();
        for (int32_t rank = 0; rank < n; ++rank) {
            const node next = child(parent, rank);
            if (!(next.p >= min_p && next.p > 0.0)) {
                break; // they fall
            }
            tree.add(next);
        }
    }

    // the nodes of a depth that are among the likeliest, as many as may be followed up
    std::vector<int32_t> to_take_up(int32_t depth, int32_t width) const {
        std::vector<int32_t> taken;
        for (const int32_t i : tree.order) {
            if (nodes[i].depth == depth && !(heads.is_sequential() && (int32_t) taken.size() == width)) {
                taken.push_back(i);
            }
        }
        return taken;
    }
};

}

int32_t treellama_heads_grow(
        treellama_heads * heads, int32_t n_threads, const float * hidden, llama_token root, int32_t n_nodes, int32_t top,
        int32_t width, double min_p, int32_t * tokens, int32_t * parents, double * p) {
    return treellama_catch(TREELLAMA_EXCEPTION, [&] {
        std::lock_guard<std::mutex> lock(heads->busy);
        growing guesses(*heads, n_threads, hidden, root, top, n_nodes);
        guesses.add_children(-1, min_p);

        // below what is not among the likeliest now, nothing can get in: a path is no likelier than its beginning
        for (int32_t depth = 0; depth + 1 < heads->facts.n_heads; ++depth) {
            const std::vector<int32_t> taken = guesses.to_take_up(depth, width);
            if (taken.empty()) {
                break;
            }
            guesses.take_up(taken);
            for (const int32_t i : taken) {
                guesses.add_children(i, min_p);
            }
        }

        return guesses.tree.write(tokens, parents, p);
    });
}

int32_t treellama_heads_fill(
        treellama_heads * heads, int32_t n_threads, const float * hidden, llama_token root, int32_t n_nodes,
        const int32_t * parents, const int32_t * ranks, int32_t * tokens, double * p) {
    return treellama_catch(TREELLAMA_EXCEPTION, [&] {
        std::lock_guard<std::mutex> lock(heads->busy);
        growing tree(*heads, n_threads, hidden, root, 1 + *std::max_element(ranks, ranks + n_nodes), n_nodes);

        std::vector<bool> has_children(n_nodes, false);
        for (int32_t i = 0; i < n_nodes; ++i) {
            if (parents[i] >= 0) {
                has_children[parents[i]] = true;
            }
        }

        // parents come first, level by level
        for (int32_t begin = 0, end = 0; begin < n_nodes; begin = end) {
            std::vector<int32_t> taken;
            for (end = begin; end < n_nodes && parents[end] < begin; ++end) {
                tree.nodes.push_back(tree.child(parents[end], ranks[end]));
                if (has_children[end]) {
                    taken.push_back(end);
                }
            }
            if (!taken.empty()) {
                tree.take_up(taken);
            }
        }

        for (int32_t i = 0; i < n_nodes; ++i) {
            tokens[i] = tree.nodes[i].token;
            p     [i] = tree.nodes[i].p;
        }
        return n_nodes;
    });
}
