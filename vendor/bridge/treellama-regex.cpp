// a backtracking matcher on a stack of its own: std::regex recurses once a character, and a long word ends the process
//
// A pattern becomes a short program. A loop over one class of characters is one instruction (RUN), whatever the length of
// the run, and all else that may have to be tried again is a frame on an explicit stack. Two things keep the time linear:
//
// - what follows a place in the program depends on the position alone, so what failed once fails always: a RUN keeps the
//   interval of ends that failed, a loop over a group keeps one bit for each position;
// - where the rest of the program is sure to match (all of it is optional), no earlier choice is ever needed again, and the
//   stack is emptied.

#include "treellama-regex.h"
#include "treellama-impl.h"

#include <algorithm>
#include <bitset>
#include <cstdint>
#include <map>
#include <memory>
#include <mutex>
#include <stdexcept>
#include <utility>

static thread_local bool g_uses_std_regex = false;

void treellama_use_std_regex(bool value) {
    g_uses_std_regex = value;
}

bool treellama_uses_std_regex() {
    return g_uses_std_regex;
}

namespace {

constexpr uint32_t MAX_CHAR    = 0xFFFFFFFF;
constexpr uint32_t UNLIMITED   = 0xFFFFFFFF;
constexpr uint32_t MAX_REPEATS = 100000;
constexpr size_t   MAX_OPS     = 10000;
constexpr int      MAX_DEPTH   = 100;

using code_points = std::u32string;

//
// sets of characters
//

// sorted ranges that do not touch each other
struct char_set {
    using range = std::pair<uint32_t, uint32_t>; // both inclusive
    std::vector<range> ranges;

    char_set() = default;
    char_set(std::vector<range> any) {
        std::sort(any.begin(), any.end());
        for (const auto & [first, last] : any) {
            if (!ranges.empty() && (ranges.back().second == MAX_CHAR || first <= ranges.back().second + 1)) {
                ranges.back().second = std::max(ranges.back().second, last);
            } else {
                ranges.emplace_back(first, last);
            }
        }
    }

    char_set operator~() const {
        std::vector<range> rest;
        uint32_t           first = 0;
        for (const auto & [a, b] : ranges) {
            if (a > first) {
                rest.emplace_back(first, a - 1);
            }
            if (b == MAX_CHAR) {
                return rest;
            }
            first = b + 1;
        }
        rest.emplace_back(first, MAX_CHAR);
        return rest;
    }

    char_set operator|(const char_set & other) const {
        std::vector<range> all = ranges;
        all.insert(all.end(), other.ranges.begin(), other.ranges.end());
        return all;
    }

    char_set operator&(const char_set & other) const {
        return ~(~*this | ~other);
    }
};

// a set that is asked often
struct char_test {
    std::bitset<256>             low;
    std::vector<char_set::range> high;

    char_test() = default;
    char_test(const char_set & set) : high(set.ranges) {
        for (const auto & [a, b] : set.ranges) {
            for (uint32_t c = a; c < 256 && c <= b; ++c) {
                low.set(c);
            }
        }
        while (!high.empty() && high.front().second < 256) {
            high.erase(high.begin());
        }
    }

    bool has(uint32_t c) const {
        if (c < 256) {
            return low[c];
        }
        const auto it = std::upper_bound(high.begin(), high.end(), c,
                [](uint32_t value, const char_set::range & range) { return value < range.first; });
        return it != high.begin() && c <= std::prev(it)->second;
    }
};

//
// the tree of a pattern
//

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

    bool can_be_empty() const {
        switch (what) {
            case kind::CHARS:        return false;
            case kind::LOOK:
            case kind::END:          return true;
            case kind::REPEAT:       return min == 0 || children[0].can_be_empty();
            case kind::SEQUENCE:     return std::all_of(children.begin(), children.end(), [](const node & n) { return n.can_be_empty(); });
            case kind::ALTERNATIVES: return std::any_of(children.begin(), children.end(), [](const node & n) { return n.can_be_empty(); });
        }
        return true;
    }

    // the characters that a match that is not empty can begin with
    char_set first() const {
        char_set found;
        switch (what) {
            case kind::CHARS:
                return chars;
            case kind::LOOK:
            case kind::END:
                return found;
            case kind::REPEAT:
                return children[0].first();
            case kind::SEQUENCE:
                for (const auto & child : children) {
                    found = found | child.first();
                    if (!child.can_be_empty()) {
                        break;
                    }
                }
                return found;
            case kind::ALTERNATIVES:
                for (const auto & child : children) {
                    found = found | child.first();
                }
                return found;
        }
        return found;
    }
};

class parser {
public:
    parser(const code_points & regex) : regex(regex) {}

    node parse() {
        node all = alternatives();
        if (pos < regex.size()) {
            fail("a parenthesis that was not opened");
        }
        return all;
    }

private:
    [[noreturn]] void fail(const std::string & what) const {
        throw std::runtime_error(
                "the pre-tokenizer's regular expression has, at character " + std::to_string(pos) + ", " + what +
                ", which the tokenizer does not know");
    }

    bool at(uint32_t c) const {
        return pos < regex.size() && regex[pos] == c;
    }

    bool take(const char * text) {
        size_t n = 0;
        for (; text[n]; ++n) {
            if (pos + n >= regex.size() || regex[pos + n] != (unsigned char) text[n]) {
                return false;
            }
        }
        pos += n;
        return true;
    }

    uint32_t next() {
        if (pos >= regex.size()) {
            fail("an end too early");
        }
        return regex[pos++];
    }

    node alternatives() {
        node all{ kind::ALTERNATIVES };
        do {
            all.children.push_back(sequence());
        } while (take("|"));
        return all.children.size() == 1 ? std::move(all.children[0]) : all;
    }

    node sequence() {
        node all{ kind::SEQUENCE };
        while (pos < regex.size() && !at('|') && !at(')')) {
            node part = repeated(atom());
            // a look at the character that is taken next is a smaller set of characters
            if (part.what == kind::CHARS && !all.children.empty() && all.children.back().is_look_at_one()) {
                const node & look = all.children.back();
                part.chars = part.chars & (look.negative ? ~look.children[0].chars : look.children[0].chars);
                all.children.pop_back();
            }
            all.children.push_back(std::move(part));
        }
        return all.children.size() == 1 ? std::move(all.children[0]) : all;
    }

    node atom() {
        if (take("(?:")) {
            return group();
        }
        if (take("(?=") || take("(?!")) {
            node look{ kind::LOOK };
            look.negative = regex[pos - 1] == '!';
            look.children.push_back(group());
            return look;
        }
        if (take("(?")) {
            fail("a group of another kind");
        }
        if (take("(")) {
            return group();
        }
        if (take("[")) {
            return one_of(set());
        }
        if (take("$")) {
            return node{ kind::END };
        }
        if (take("\\")) {
            return one_of(escaped());
        }
        const uint32_t c = next();
        if (c < 128 && std::string("*+?{}^.]").find((char) c) != std::string::npos) {
            --pos;
            fail(std::string("a ") + (char) c);
        }
        return one_of(single(c));
    }

    node group() {
        if (++depth > MAX_DEPTH) {
            fail("groups too deep");
        }
        node inside = alternatives();
        if (!take(")")) {
            fail("a parenthesis that is not closed");
        }
        --depth;
        return inside;
    }

    node repeated(node part) {
        uint32_t min = 1;
        uint32_t max = 1;
        if (take("*")) {
            min = 0, max = UNLIMITED;
        } else if (take("+")) {
            max = UNLIMITED;
        } else if (take("?")) {
            min = 0;
        } else if (take("{")) {
            min = max = number();
            if (take(",")) {
                max = at('}') ? UNLIMITED : number();
            }
            if (!take("}") || min > max) {
                fail("a count that is none");
            }
        } else {
            return part;
        }
        if (at('?') || at('*') || at('+') || at('{')) {
            fail("a quantifier of another kind");
        }
        if (part.can_be_empty()) {
            fail("a repetition of what can be empty");
        }
        node all{ kind::REPEAT };
        all.children.push_back(std::move(part));
        all.min = min;
        all.max = max;
        return all;
    }

    uint32_t number() {
        uint32_t value    = 0;
        size_t   n_digits = 0;
        for (; pos < regex.size() && regex[pos] >= '0' && regex[pos] <= '9'; ++n_digits) {
            value = 10*value + (regex[pos++] - '0');
            if (value > MAX_REPEATS) {
                fail("a count too large");
            }
        }
        if (n_digits == 0) {
            fail("a count that is none");
        }
        return value;
    }

    static char_set single(uint32_t c) {
        return std::vector<char_set::range>{ { c, c } };
    }

    static node one_of(char_set chars) {
        node all{ kind::CHARS };
        all.chars = std::move(chars);
        return all;
    }

    // what follows a backslash
    char_set escaped() {
        const uint32_t c = next();
        const char_set space = std::vector<char_set::range>{ { '\t', '\r' }, { ' ', ' ' } };
        const char_set digit = std::vector<char_set::range>{ { '0', '9' } };
        switch (c) {
            case 's': return space;
            case 'S': return ~space;
            case 'd': return digit;
            case 'D': return ~digit;
            case 'n': return single('\n');
            case 'r': return single('\r');
            case 't': return single('\t');
            default:  break;
        }
        if (c >= 128 || (c >= '0' && c <= '9') || (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || c == '_') {
            --pos;
            fail("an escape of another kind");
        }
        return single(c);
    }

    // what follows an opening bracket
    char_set set() {
        const bool negated = take("^");
        char_set   all;
        while (!take("]")) {
            const char_set chars = member();
            const bool     range = at('-') && pos + 1 < regex.size() && regex[pos + 1] != ']';
            if (!range) {
                all = all | chars;
                continue;
            }
            ++pos;
            const char_set last = member();
            if (!is_single(chars) || !is_single(last) || chars.ranges[0].first > last.ranges[0].first) {
                fail("a range that is none");
            }
            all = all | std::vector<char_set::range>{ { chars.ranges[0].first, last.ranges[0].first } };
        }
        return negated ? ~all : all;
    }

    char_set member() {
        if (take("\\")) {
            return escaped();
        }
        const uint32_t c = next();
        if (c == '[' && (at(':') || at('.') || at('='))) {
            fail("a class by name");
        }
        return single(c);
    }

    static bool is_single(const char_set & set) {
        return set.ranges.size() == 1 && set.ranges[0].first == set.ranges[0].second;
    }

    const code_points & regex;
    size_t              pos   = 0;
    int                 depth = 0;
};

//
// the program of a pattern
//

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

    program(const code_points & regex) {
        const node tree = parser(regex).parse();
        can_be_empty = tree.can_be_empty();
        first        = tree.first();
        emit(tree, false);
        add({ opcode::MATCH }, false);
        find_sure();
    }

private:
    uint32_t add(op o, bool in_look) {
        if (ops.size() >= MAX_OPS) {
            throw std::runtime_error("the pre-tokenizer's regular expression is too long");
        }
        o.in_look = in_look;
        ops.push_back(std::move(o));
        return (uint32_t) ops.size() - 1;
    }

    void emit_run(const node & chars, uint32_t min, uint32_t max, bool in_look) {
        op o{ opcode::RUN };
        o.min   = min;
        o.max   = max;
        o.chars = chars.chars;
        add(std::move(o), in_look);
    }

    void emit(const node & tree, bool in_look) {
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

    void emit_alternatives(const node & tree, bool in_look) {
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

    void emit_group(const node & tree, bool in_look) {
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

    void find_sure() {
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

    bool is_sure_by_next(size_t i) const {
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
};

// compiled once a process: the patterns are those of llama.cpp's pre-tokenizers, not of a file or a caller
std::shared_ptr<const program> compiled(const code_points & regex) {
    static std::mutex                                              mutex;
    static std::map<code_points, std::shared_ptr<const program>> & programs =
            *new std::map<code_points, std::shared_ptr<const program>>; // outlives threads that are at work at exit

    std::lock_guard<std::mutex> lock(mutex);
    auto & found = programs[regex];
    if (!found) {
        found = std::make_shared<const program>(regex);
    }
    return found;
}

//
// the matcher
//

uint32_t code_of(char c) {
    return (unsigned char) c;
}

uint32_t code_of(wchar_t c) {
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

template <typename CharT>
std::vector<size_t> split(
        const std::basic_string<CharT> & text, const std::basic_string<CharT> & regex, const std::vector<size_t> & lengths) {
    code_points codes;
    for (const CharT c : regex) {
        codes.push_back((char32_t) code_of(c));
    }
    const auto prog = compiled(codes);

    std::vector<size_t> pieces;
    pieces.reserve(lengths.size());
    matcher<CharT> found(*prog, text, lengths.size());
    size_t offset = 0;
    for (const size_t length : lengths) {
        found.split(offset, length, pieces);
        offset += length;
    }
    return pieces;
}

} // namespace

std::vector<size_t> treellama_regex_split(
        const std::string & text, const std::string & regex, const std::vector<size_t> & lengths) {
    return split(text, regex, lengths);
}

std::vector<size_t> treellama_regex_split(
        const std::wstring & text, const std::wstring & regex, const std::vector<size_t> & lengths) {
    return split(text, regex, lengths);
}
