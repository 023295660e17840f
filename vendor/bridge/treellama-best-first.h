#pragma once

// trees that grow from the likeliest nodes first

#include <algorithm>
#include <cstdint>
#include <vector>

namespace treellama {

// the likeliest of the nodes that are added, in falling order; of equal ones the older comes first
//
// A node must be no likelier than its parent, which is added before it. Then a parent comes before its children, and what
// stands before a node that is followed up now is in its place for good.
//   Node: has token, parent (its number among all nodes, -1 for none) and p, the probability of its whole path
template <typename Node>
class best_first {
public:
    explicit best_first(int32_t n_best) : n_max(n_best) {}

    // whether a node with that probability would be among the likeliest
    bool takes(double p) const {
        return (int32_t) order.size() < n_max || (n_max > 0 && p > nodes[order.back()].p);
    }

    void add(const Node & node) {
        if (!takes(node.p)) {
            return;
        }
        const auto less_likely = [this](double p, int32_t i) { return nodes[i].p < p; };
        order.insert(std::upper_bound(order.begin(), order.end(), node.p, less_likely), (int32_t) nodes.size());
        nodes.push_back(node);
        if ((int32_t) order.size() > n_max) {
            order.pop_back();
        }
    }

    // the likeliest as a tree, whose parents are places in it; returns how many
    int32_t write(int32_t * tokens, int32_t * parents, double * p) const {
        std::vector<int32_t> place(nodes.size(), -1);
        for (size_t i = 0; i < order.size(); ++i) {
            const Node & node = nodes[order[i]];
            place[order[i]] = (int32_t) i;
            tokens [i] = node.token;
            parents[i] = node.parent < 0 ? -1 : place[node.parent];
            p      [i] = node.p;
        }
        return (int32_t) order.size();
    }

    std::vector<Node>    nodes; // that were among the likeliest when they were added, the oldest first
    std::vector<int32_t> order; // numbers of those that are, the likeliest first

private:
    int32_t n_max;
};

}
