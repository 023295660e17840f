#include "treellama-regex-parser.h"

#include <algorithm>
#include <stdexcept>
#include <utility>

namespace treellama::regex {

static constexpr uint32_t MAX_REPEATS = 100000;
static constexpr int      MAX_DEPTH   = 100;

//
// the tree
//

bool node::can_be_empty() const {
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

char_set node::first() const {
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

//
// the parser
//

namespace {

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

}

node parse(const code_points & pattern) {
    return parser(pattern).parse();
}

}
