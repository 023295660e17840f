#pragma once

// a GBNF grammar in the state that its text has reached

#include "treellama-impl.h"

#include "llama-grammar.h"

#include <cstdint>
#include <memory>
#include <string>

struct treellama_grammar {
    // Elements that llama.cpp may look at, some 2 ns each: what a grammar has at first and saves up, and what each token
    // adds. Work, not time: whether a request fails depends on its text alone. The mask of a vocabulary of 256k tokens
    // takes 1M for a class of few ranges, and 256M for 1000 words to choose from.
    static constexpr int64_t n_work_max   = 512*1000*1000;
    static constexpr int64_t n_work_token =  32*1000*1000;

    struct deleter {
        void operator()(llama_grammar * grammar) const { llama_grammar_free_impl(grammar); }
    };

    const llama_vocab * vocab;
    std::string         text;
    std::string         root;

    std::unique_ptr<llama_grammar, deleter> state;

    int64_t work_left = n_work_max;

    treellama_grammar(const llama_vocab * vocab, const char * text, const char * root);
    treellama_grammar(const treellama_grammar & other);

    void reset();

    // both need a treellama_work, and throw when there is too much of it
    bool allows(llama_token token) const;
    void accept(llama_token token);
};

// while one lives, what this thread does with grammars is counted as the work of this one
struct treellama_work {
    explicit treellama_work(treellama_grammar & grammar);
    ~treellama_work();

private:
    treellama_grammar & grammar;
};

// run f, which may use the grammar if there is one; as treellama_guard, or TREELLAMA_TOO_MUCH_WORK
template <typename F>
int32_t treellama_guard_grammar(treellama_grammar * grammar, F && f) {
    return treellama_guard(TREELLAMA_EXCEPTION, [&]() -> int32_t {
        if (!grammar) {
            return f();
        }

        treellama_work scope(*grammar);
        try {
            return f();
        } catch (const std::exception &) {
            if (llama_grammar_work_left < 0) {
                return TREELLAMA_TOO_MUCH_WORK;
            }
            throw;
        }
    });
}
