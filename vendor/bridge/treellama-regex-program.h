#pragma once

// a pattern as a short program
//
// A loop over one class of characters is one instruction (RUN), whatever the length of the run.

#include "treellama-regex-parser.h"

#include <cstdint>
#include <memory>
#include <vector>

namespace treellama::regex {

enum class opcode : uint8_t {
    RUN,      // as many characters of a set as there are, min to max
    SPLIT,    // go on at `target`, then at `other`
    JUMP,     // go on at `target`
    ITERATE,  // an iteration of a loop over a group begins
    LOOK,     // look ahead from the next instruction on to LOOK_END, then go on at `target`
    LOOK_END,
    END,      // only at the text's end
    MATCH,
};

struct op {
    opcode    code;
    uint32_t  target   = 0;
    uint32_t  other    = 0;
    uint32_t  min      = 0;
    uint32_t  max      = 0;
    bool      negative = false;
    bool      in_look  = false;
    uint32_t  loop     = 0; // ITERATE: number of the loop
    char_test chars    = {};
};

struct program {
    std::vector<op>   ops;
    std::vector<bool> is_sure; // from here on it matches whatever follows
    uint32_t          n_loops      = 0;
    bool              can_be_empty = false;
    char_test         first;   // if it cannot be empty

    explicit program(const code_points & pattern);

private:
    uint32_t add(op o, bool in_look);
    void emit_run(const node & chars, uint32_t min, uint32_t max, bool in_look);
    void emit(const node & tree, bool in_look);
    void emit_alternatives(const node & tree, bool in_look);
    void emit_group(const node & tree, bool in_look);
    void find_sure();
    bool is_sure_by_next(size_t i) const;
};

// compiled once a process: the patterns are those of llama.cpp's pre-tokenizers, not of a file or a caller
std::shared_ptr<const program> compiled(const code_points & pattern);

}
