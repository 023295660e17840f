#pragma once

// a backtracking matcher on a stack of its own: std::regex recurses once a character, and a long word ends the process
//
// All that may have to be tried again is a frame on an explicit stack. Two things keep the time linear:
//
// - what follows a place in the program depends on the position alone, so what failed once fails always: a RUN keeps the
//   interval of ends that failed, a loop over a group keeps one bit for each position;
// - where the rest of the program is sure to match (all of it is optional), no earlier choice is ever needed again, and the
//   stack is emptied.

#include "treellama-regex-program.h"

#include <algorithm>
#include <cstdint>
#include <stdexcept>
#include <string>
#include <vector>

namespace treellama::regex {

inline uint32_t code_of(char c) {
    return (unsigned char) c;
}

inline uint32_t code_of(wchar_t c) {
    return (uint32_t) c;
}

constexpr uint32_t NONE = 0xFFFFFFFF;

template <typename CharT>
class matcher {
public:
    matcher(const program & prog, const std::basic_string<CharT> & text, size_t n_pieces) :
            prog(prog), text(text), runs(prog.ops.size()) {
        if (text.size() + n_pieces >= NONE) {
            throw std::runtime_error("the text is too long to be split");
        }
        const size_t n_bits = prog.n_loops*(text.size() + n_pieces + 1);
        failed.resize(n_bits);
        succeeded.resize(n_bits);
        loop_bits = text.size() + n_pieces + 1;
    }

    // the matches of one piece of the text, as lengths of what they make of it
    void split(size_t offset, size_t length, std::vector<size_t> & lengths) {
        begin_piece(offset, length);

        uint32_t last = first; // end of the match before
        uint32_t from = first;
        while (search(from)) {
            lengths_of_match(last, lengths);
            if (match_end > match_begin) {
                from = match_end;
                continue;
            }
            // after an empty match: one here that is not empty, or else a later one
            if (match_end == end) {
                break;
            }
            if (match(match_end, true)) {
                lengths_of_match(last, lengths);
                from = match_end;
            } else {
                from = match_end + 1;
            }
        }
        if (last < end) {
            lengths.push_back(end - last);
        }
        ++n_piece;
    }

private:
    // something that may have to be tried again
    struct frame {
        uint32_t pc;
        uint32_t pos;   // where; for a RUN the end to try next
        uint32_t lo;    // RUN: the smallest end; LOOK: the frames below the one around it
        uint32_t hi;    // RUN: the largest end
    };

    // what is known of a RUN in this piece
    struct run {
        uint32_t begin        = NONE; // all characters from begin to end are of its set, the one at end is not
        uint32_t end          = 0;
        uint32_t failed_begin = NONE; // the rest of the program fails from any of these ends on
        uint32_t failed_end   = 0;    // inclusive
        uint32_t n_piece      = NONE;
    };

    void begin_piece(size_t offset, size_t length) {
        first = (uint32_t) offset;
        end   = (uint32_t) (offset + length);
    }

    void lengths_of_match(uint32_t & last, std::vector<size_t> & lengths) const {
        if (match_begin > last) {
            lengths.push_back(match_begin - last);
        }
        lengths.push_back(match_end - match_begin);
        last = match_end;
    }

    bool search(uint32_t from) {
        for (uint32_t pos = from; pos <= end; ++pos) {
            if (!prog.can_be_empty) {
                while (pos < end && !prog.first.has(code_of(text[pos]))) {
                    ++pos;
                }
                if (pos == end) {
                    return false;
                }
            }
            if (match(pos, false)) {
                return true;
            }
        }
        return false;
    }

    bool match(uint32_t begin, bool not_empty) {
        stack.clear();
        base = 0;
        pc   = 0;
        pos  = begin;
        while (true) {
            const op & o = prog.ops[pc];
            if (o.code == opcode::MATCH && !(not_empty && pos == begin)) {
                match_begin = begin;
                match_end   = pos;
                return true;
            }
            if (!step(o) && !backtrack()) {
                return false;
            }
        }
    }

    // false if this way fails
    bool step(const op & o) {
        switch (o.code) {
            case opcode::RUN:
                return take_run(o);
            case opcode::SPLIT:
                split_here(o);
                return true;
            case opcode::JUMP:
                pc = o.target;
                return true;
            case opcode::ITERATE:
                return iterate(o);
            case opcode::LOOK:
                stack.push_back({ pc, pos, (uint32_t) base, 0 });
                base = stack.size();
                ++pc;
                return true;
            case opcode::LOOK_END:
                return leave_look();
            case opcode::END:
                ++pc;
                return pos == end;
            case opcode::MATCH: // empty, and should not be
                return false;
        }
        return false;
    }

    // nothing below the next frame is needed any more, as that one cannot fail
    void forget_choices() {
        stack.resize(base);
    }

    void split_here(const op & o) {
        if (!prog.is_sure[o.target]) {
            if (prog.is_sure[o.other]) {
                forget_choices();
            }
            stack.push_back({ pc, pos, 0, 0 });
        }
        pc = o.target;
    }

    // ends of runs of a set: of one run only once, however often it is asked for
    uint32_t run_end(const op & o, run & known) {
        if (o.max != UNLIMITED) {
            const uint32_t limit = (uint32_t) std::min<uint64_t>(end, (uint64_t) pos + o.max);
            return scan(o, pos, limit);
        }
        if (!(known.begin <= pos && pos <= known.end)) {
            known.begin = pos;
            known.end   = scan(o, pos, end);
        }
        return known.end;
    }

    uint32_t scan(const op & o, uint32_t from, uint32_t limit) const {
        while (from < limit && o.chars.has(code_of(text[from]))) {
            ++from;
        }
        return from;
    }

    run & known_run(uint32_t at) {
        if (runs[at].n_piece != n_piece) {
            runs[at]         = {};
            runs[at].n_piece = n_piece;
        }
        return runs[at];
    }

    bool take_run(const op & o) {
        run & known = known_run(pc);

        const uint32_t hi = run_end(o, known);
        if (hi - pos < o.min) {
            return false;
        }
        if (prog.is_sure[pc + 1]) {
            forget_choices();
            pos = hi;
            ++pc;
            return true;
        }
        const uint32_t lo   = pos + o.min;
        uint32_t       stop = hi;
        if (known.failed_begin != NONE && known.failed_begin <= hi && hi <= known.failed_end) {
            if (known.failed_begin <= lo) {
                return false;
            }
            stop = known.failed_begin - 1;
        }
        if (lo < hi) {
            stack.push_back({ pc, stop, lo, hi });
        }
        pos = stop;
        ++pc;
        return true;
    }

    size_t bit(const op & o, uint32_t at) const {
        return o.loop*loop_bits + at + n_piece;
    }

    bool iterate(const op & o) {
        if (failed[bit(o, pos)]) {
            return false;
        }
        if (o.in_look && succeeded[bit(o, pos)]) {
            return leave_look();
        }
        stack.push_back({ pc, pos, 0, 0 });
        ++pc;
        return true;
    }

    // a look ahead found what it looked for
    bool leave_look() {
        for (size_t i = base; i < stack.size(); ++i) {
            const op & o = prog.ops[stack[i].pc];
            if (o.code == opcode::ITERATE) {
                succeeded[bit(o, stack[i].pos)] = true;
            }
        }
        const frame look = stack[base - 1];
        stack.resize(base - 1);
        base = look.lo;
        pos  = look.pos;
        pc   = prog.ops[look.pc].target;
        return !prog.ops[look.pc].negative;
    }

    // what fails here fails always, but where an empty match was refused
    bool is_known_forever(const op & o) const {
        return !prog.can_be_empty || o.in_look;
    }

    // go on with the last choice that is left
    bool backtrack() {
        while (!stack.empty()) {
            frame &    last = stack.back();
            const op & o    = prog.ops[last.pc];
            switch (o.code) {
                case opcode::RUN:
                    if (last.pos > last.lo) {
                        pos = --last.pos;
                        pc  = last.pc + 1;
                        return true;
                    }
                    remember_failure(o, last);
                    break;
                case opcode::SPLIT:
                    pos = last.pos;
                    pc  = o.other;
                    stack.pop_back();
                    return true;
                case opcode::ITERATE:
                    if (is_known_forever(o)) {
                        failed[bit(o, last.pos)] = true;
                    }
                    break;
                default: { // LOOK: it found nothing
                    base = last.lo;
                    pos  = last.pos;
                    pc   = o.target;
                    stack.pop_back();
                    if (o.negative) {
                        return true;
                    }
                } continue;
            }
            stack.pop_back();
        }
        return false;
    }

    void remember_failure(const op & o, const frame & last) {
        if (!is_known_forever(o)) {
            return;
        }
        run & known = runs[last.pc];
        if (known.failed_begin == NONE || known.failed_end != last.hi || last.lo < known.failed_begin) {
            known.failed_begin = last.lo;
            known.failed_end   = last.hi;
        }
    }

    const program &                  prog;
    const std::basic_string<CharT> & text;

    std::vector<frame> stack;
    std::vector<run>   runs;      // one an instruction
    std::vector<bool>  failed;    // loops x positions
    std::vector<bool>  succeeded;
    size_t             loop_bits = 0;

    uint32_t first   = 0; // the piece
    uint32_t end     = 0;
    uint32_t n_piece = 0;

    size_t   base = 0;    // frames of the look ahead that is under way begin here
    uint32_t pc   = 0;
    uint32_t pos  = 0;

    uint32_t match_begin = 0;
    uint32_t match_end   = 0;
};

}
