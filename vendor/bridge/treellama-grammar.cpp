// GBNF grammars: what llama.cpp's grammar code does, with checks before it and a bound on its work

#include "treellama-grammar.h"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <stdexcept>
#include <string>
#include <vector>

// What llama.cpp's grammar code cannot bear, found before it sees the grammar. Its parser prints errors instead of returning them. Its check for
// left recursion overlooks rules that are empty only through others, and then expands them for ever; and it
// visits every path through the rules, of which there can be exponentially many.
namespace {

struct grammar_checker {
    // ways in which one rule may begin: each can become a stack that is kept in memory
    static constexpr uint64_t n_ways_max    = 100*1000;
    // how deep llama.cpp's check for left recursion goes, at 200 bytes of stack a rule
    static constexpr uint32_t n_depth_max   = 1024;

    explicit grammar_checker(const llama_vocab * vocab) : parser(vocab) {}

    void check(const char * text, const char * root) {
        parse(text);
        check_defined(root);
        find_nullable();
        check_depth();
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

    // the walk of llama.cpp's own check, which recurses
    void check_depth() const {
        const size_t n_rules = parser.rules.size();

        std::vector<bool>     entered(n_rules, false);
        std::vector<uint32_t> depths (n_rules, 0); // 0: not left yet

        for (uint32_t start = 0; start < n_rules; ++start) {
            if (entered[start]) {
                continue;
            }

            std::vector<frame>    path;
            std::vector<uint32_t> depth_below; // of each rule on the path
            const auto enter = [&](uint32_t id) {
                entered[id] = true;
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
                if (!entered[id]) {
                    enter(id);
                    continue;
                }
                if (depths[id] == 0) {
                    refuse_left_recursion(id);
                }

                depth_below.back() = std::max(depth_below.back(), depths[id]);
                top.next++;

                if (depth_below.back() >= n_depth_max) {
                    refuse_complexity(top.rule);
                }
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

treellama_grammar * treellama_grammar_init(const llama_vocab * vocab, const char * text, const char * root) {
    return treellama_guard((treellama_grammar *) nullptr, [&] {
        grammar_checker(vocab).check(text, root);

        return new treellama_grammar(vocab, text, root);
    });
}

void treellama_grammar_free(treellama_grammar * grammar) {
    delete grammar;
}

treellama_grammar * treellama_grammar_clone(const treellama_grammar * grammar) {
    return treellama_guard((treellama_grammar *) nullptr, [&] { return new treellama_grammar(*grammar); });
}

int32_t treellama_grammar_reset(treellama_grammar * grammar) {
    return treellama_guard(TREELLAMA_EXCEPTION, [&] {
        grammar->reset();
        return 0;
    });
}

int32_t treellama_grammar_accept(treellama_grammar * grammar, llama_token token) {
    return treellama_guard_grammar(grammar, [&]() -> int32_t {
        if (!grammar->allows(token)) {
            return TREELLAMA_NO_CANDIDATE;
        }
        grammar->accept(token);
        return 0;
    });
}

treellama_grammar::treellama_grammar(const llama_vocab * vocab, const char * text, const char * root)
    : vocab(vocab), text(text), root(root) {
    reset();
}

treellama_grammar::treellama_grammar(const treellama_grammar & other)
    : vocab(other.vocab), text(other.text), root(other.root), state(llama_grammar_clone_impl(*other.state)), work_left(other.work_left) {}

void treellama_grammar::reset() {
    work_left = n_work_max;

    treellama_work scope(*this);
    state.reset(llama_grammar_init_impl(vocab, text.c_str(), root.c_str(), false, nullptr, 0, nullptr, 0));
    if (!state) {
        throw std::runtime_error("llama.cpp refuses the grammar");
    }
}

bool treellama_grammar::allows(llama_token token) const {
    llama_token_data       one = { token, 1.0f, 0.0f };
    llama_token_data_array cur = { &one, 1, /*.selected =*/ -1, /*.sorted =*/ false };

    llama_grammar_apply_impl(*state, &cur);

    return one.logit > -INFINITY;
}

void treellama_grammar::accept(llama_token token) {
    llama_grammar_accept_impl(*state, token);
    llama_grammar_work_left = std::min(n_work_max, llama_grammar_work_left + n_work_token);
}

treellama_work::treellama_work(treellama_grammar & grammar) : grammar(grammar) {
    llama_grammar_work_left = grammar.work_left;
}

treellama_work::~treellama_work() {
    grammar.work_left = std::max<int64_t>(0, llama_grammar_work_left);
    llama_grammar_work_left = INT64_MAX;
}
