#include "treellama-regex-program.h"

#include <map>
#include <mutex>
#include <stdexcept>
#include <string>
#include <utility>

namespace treellama::regex {

static constexpr size_t MAX_OPS = 10000;

program::program(const code_points & pattern) {
    const node tree = parse(pattern);
    can_be_empty = tree.can_be_empty();
    first        = tree.first();
    emit(tree, false);
    add({ opcode::MATCH }, false);
    find_sure();
}

uint32_t program::add(op o, bool in_look) {
    if (ops.size() >= MAX_OPS) {
        throw std::runtime_error("the pre-tokenizer's regular expression is too long");
    }
    o.in_look = in_look;
    ops.push_back(std::move(o));
    return (uint32_t) ops.size() - 1;
}

void program::emit_run(const node & chars, uint32_t min, uint32_t max, bool in_look) {
    op o{ opcode::RUN };
    o.min   = min;
    o.max   = max;
    o.chars = chars.chars;
    add(std::move(o), in_look);
}

void program::emit(const node & tree, bool in_look) {
    switch (tree.what) {
        case kind::CHARS:
            emit_run(tree, 1, 1, in_look);
            break;
        case kind::SEQUENCE:
            for (const auto & child : tree.children) {
                emit(child, in_look);
            }
            break;
        case kind::ALTERNATIVES:
            emit_alternatives(tree, in_look);
            break;
        case kind::REPEAT:
            if (tree.children[0].what == kind::CHARS) {
                emit_run(tree.children[0], tree.min, tree.max, in_look);
            } else {
                emit_group(tree, in_look);
            }
            break;
        case kind::LOOK: {
            op o{ opcode::LOOK };
            o.negative = tree.negative;
            const uint32_t look = add(std::move(o), in_look);
            emit(tree.children[0], true);
            add({ opcode::LOOK_END }, true);
            ops[look].target = (uint32_t) ops.size();
        } break;
        case kind::END:
            add({ opcode::END }, in_look);
            break;
    }
}

void program::emit_alternatives(const node & tree, bool in_look) {
    std::vector<uint32_t> ends;
    for (size_t i = 0; i + 1 < tree.children.size(); ++i) {
        const uint32_t split = add({ opcode::SPLIT }, in_look);
        ops[split].target = split + 1;
        emit(tree.children[i], in_look);
        ends.push_back(add({ opcode::JUMP }, in_look));
        ops[split].other = (uint32_t) ops.size();
    }
    emit(tree.children.back(), in_look);
    for (const uint32_t end : ends) {
        ops[end].target = (uint32_t) ops.size();
    }
}

void program::emit_group(const node & tree, bool in_look) {
    const node & body = tree.children[0];
    for (uint32_t i = 0; i < tree.min; ++i) {
        emit(body, in_look);
    }
    if (tree.max == UNLIMITED) {
        const uint32_t split = add({ opcode::SPLIT }, in_look);
        op iterate{ opcode::ITERATE };
        iterate.loop = n_loops++;
        ops[split].target = add(std::move(iterate), in_look);
        emit(body, in_look);
        const uint32_t jump = add({ opcode::JUMP }, in_look);
        ops[jump].target = split;
        ops[split].other = (uint32_t) ops.size();
        return;
    }
    std::vector<uint32_t> splits;
    for (uint32_t i = tree.min; i < tree.max; ++i) {
        splits.push_back(add({ opcode::SPLIT }, in_look));
        ops[splits.back()].target = (uint32_t) ops.size();
        emit(body, in_look);
    }
    for (const uint32_t split : splits) {
        ops[split].other = (uint32_t) ops.size();
    }
}

void program::find_sure() {
    is_sure.assign(ops.size(), false);
    for (bool changed = true; changed;) {
        changed = false;
        for (size_t i = ops.size(); i-- > 0;) {
            if (!is_sure[i] && is_sure_by_next(i)) {
                is_sure[i] = changed = true;
            }
        }
    }
}

bool program::is_sure_by_next(size_t i) const {
    const op & o = ops[i];
    switch (o.code) {
        case opcode::RUN:      return o.min == 0 && is_sure[i + 1];
        case opcode::SPLIT:    return is_sure[o.target] || is_sure[o.other];
        case opcode::JUMP:     return is_sure[o.target];
        case opcode::ITERATE:  return is_sure[i + 1];
        case opcode::LOOK_END: return true;
        case opcode::MATCH:    return !can_be_empty; // it may be asked for a match that is not empty
        case opcode::LOOK:
        case opcode::END:      return false;
    }
    return false;
}

std::shared_ptr<const program> compiled(const code_points & pattern) {
    static std::mutex                                              mutex;
    static std::map<code_points, std::shared_ptr<const program>> & programs =
            *new std::map<code_points, std::shared_ptr<const program>>; // outlives threads that are at work at exit

    std::lock_guard<std::mutex> lock(mutex);
    auto & found = programs[pattern];
    if (!found) {
        found = std::make_shared<const program>(pattern);
    }
    return found;
}

}
