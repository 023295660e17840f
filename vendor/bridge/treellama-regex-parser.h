#pragma once

// a pattern as a tree

#include "treellama-regex-chars.h"

#include <cstdint>
#include <string>
#include <vector>

namespace treellama::regex {

using code_points = std::u32string;

constexpr uint32_t UNLIMITED = 0xFFFFFFFF;

enum class kind { CHARS, SEQUENCE, ALTERNATIVES, REPEAT, LOOK, END };

struct node {
    kind              what;
    char_set          chars    = {};   // CHARS
    std::vector<node> children = {};
    uint32_t          min = 1;         // REPEAT
    uint32_t          max = 1;
    bool              negative = false; // LOOK

    bool is_look_at_one() const {
        return what == kind::LOOK && children[0].what == kind::CHARS;
    }

    bool can_be_empty() const;

    // the characters that a match that is not empty can begin with
    char_set first() const;
};

// throws std::runtime_error for syntax that is not known
node parse(const code_points & pattern);

}
