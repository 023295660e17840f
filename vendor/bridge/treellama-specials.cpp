// special tokens in text, in time linear in the text whatever their number (Aho and Corasick, 1975)
//
// llama.cpp searches the whole text once for each special token of the vocabulary, of which there may be thousands.

#include "treellama-specials.h"

#include <algorithm>
#include <cctype>
#include <cstring>
#include <string_view>

// a token that is at more than one of so many places is searched for, as the list of its places would be long
static constexpr size_t DENSE = 16;

uint32_t treellama_specials::child_of(uint32_t at, uint8_t byte) const {
    if (at == 0) {
        return roots[byte];
    }
    uint32_t found = nodes[at].child;
    while (found != 0 && nodes[found].byte != byte) {
        found = nodes[found].sibling;
    }
    return found;
}

uint32_t treellama_specials::next(uint32_t at, uint8_t byte) const {
    while (true) {
        const uint32_t found = child_of(at, byte);
        if (found != 0 || at == 0) {
            return found;
        }
        at = nodes[at].suffix;
    }
}

void treellama_specials::assign(
        const std::vector<llama_token> & tokens, const std::function<const std::string & (llama_token)> & text_of) {
    specials.clear();
    nodes.assign(1, {});
    std::fill(std::begin(roots), std::end(roots), 0);

    for (const llama_token id : tokens) {
        uint32_t at = 0;
        for (const char c : text_of(id)) {
            uint32_t found = child_of(at, (uint8_t) c);
            if (found == 0) {
                found = (uint32_t) nodes.size();
                nodes.emplace_back();
                nodes[found].byte    = (uint8_t) c;
                nodes[found].sibling = at == 0 ? 0 : nodes[at].child;
                (at == 0 ? roots[(uint8_t) c] : nodes[at].child) = found;
            }
            at = found;
        }
        if (at != 0 && nodes[at].special < 0) {
            nodes[at].special = (int32_t) specials.size();
            specials.push_back({ id, text_of(id) });
        }
    }

    order.clear();
    for (const uint32_t root : roots) {
        if (root != 0) {
            order.push_back(root);
        }
    }
    for (size_t i = 0; i < order.size(); ++i) {
        const uint32_t at = order[i];
        for (uint32_t child = nodes[at].child; child != 0; child = nodes[child].sibling) {
            node & one = nodes[child];
            one.suffix  = next(nodes[at].suffix, one.byte);
            one.shorter = nodes[one.suffix].special >= 0 ? one.suffix : nodes[one.suffix].shorter;
            order.push_back(child);
        }
    }
}

// how often each token is in a text, places that overlap included
std::vector<uint32_t> treellama_specials::count(const std::string & text) const {
    std::vector<uint32_t> visits(nodes.size());
    uint32_t              at = 0;
    for (const char c : text) {
        at = next(at, (uint8_t) c);
        ++visits[at];
    }

    std::vector<uint32_t> counts(specials.size());
    for (size_t i = order.size(); i-- > 0;) {
        const node & one = nodes[order[i]];
        if (one.special >= 0) {
            counts[one.special] = visits[order[i]];
        }
        visits[one.suffix] += visits[order[i]];
    }
    return counts;
}

// of tokens that are wanted, by token, then by offset
std::vector<treellama_specials::place> treellama_specials::places(
        const std::string & text, const std::vector<bool> & wanted) const {
    std::vector<place> found;
    uint32_t           at = 0;
    for (size_t i = 0; i < text.size(); ++i) {
        at = next(at, (uint8_t) text[i]);
        for (uint32_t end = at; end != 0; end = nodes[end].shorter) {
            const int32_t special = nodes[end].special;
            if (special >= 0 && wanted[special]) {
                found.push_back({ (uint32_t) special, (uint32_t) (i + 1 - specials[special].text.size()) });
            }
        }
    }
    std::sort(found.begin(), found.end(), [](const place & a, const place & b) {
        return a.special != b.special ? a.special < b.special : a.offset < b.offset;
    });
    return found;
}

void treellama_specials::split(
        const std::string & text, bool parse_special,
        const std::function<llama_token_attr(llama_token)> & attr_of,
        const std::function<void(llama_token, size_t offset, size_t length)> & part) const {
    const std::vector<uint32_t> counts = specials.empty() ? std::vector<uint32_t>() : count(text);

    std::vector<uint32_t> found; // tokens, in order
    std::vector<bool>     sparse(specials.size());
    for (uint32_t i = 0; i < counts.size(); ++i) {
        const int attr = counts[i] > 0 ? attr_of(specials[i].id) : 0;
        if (counts[i] > 0 && (parse_special || !(attr & (LLAMA_TOKEN_ATTR_CONTROL | LLAMA_TOKEN_ATTR_UNKNOWN)))) {
            found.push_back(i);
            sparse[i] = counts[i]*DENSE <= text.size();
        }
    }
    if (found.empty()) {
        part(LLAMA_TOKEN_NULL, 0, text.size());
        return;
    }

    std::string        taken(text.size(), '\0');
    std::vector<place> chosen;

    // takes the place if it is free; where the next one may begin
    const auto take = [&](uint32_t i, size_t begin) {
        const size_t length = specials[i].text.size();
        for (size_t end = begin + length; end > begin; --end) {
            if (taken[end - 1]) {
                return end;
            }
        }
        memset(&taken[begin], 1, length);
        chosen.push_back({ i, (uint32_t) begin });

        const int attr = attr_of(specials[i].id);
        if (attr & LLAMA_TOKEN_ATTR_LSTRIP) {
            for (size_t at = begin; at > 0 && !taken[at - 1] && isspace((uint8_t) text[at - 1]); --at) {
                taken[at - 1] = 1;
            }
        }
        if (attr & LLAMA_TOKEN_ATTR_RSTRIP) {
            for (size_t at = begin + length; at < text.size() && !taken[at] && isspace((uint8_t) text[at]); ++at) {
                taken[at] = 1;
            }
        }
        return begin + length;
    };

    const std::vector<place> all = places(text, sparse);

    auto place = all.begin();
    for (const uint32_t i : found) {
        if (sparse[i]) {
            for (; place != all.end() && place->special == i; ++place) {
                take(i, place->offset);
            }
            continue;
        }
        size_t at = 0;
        while ((at = std::string_view(text).find(specials[i].text, at)) != std::string_view::npos) {
            at = take(i, at);
        }
    }

    std::sort(chosen.begin(), chosen.end(), [](const auto & a, const auto & b) { return a.offset < b.offset; });

    size_t at = 0;
    auto   next_chosen = chosen.begin();
    while (at < text.size()) {
        if (next_chosen != chosen.end() && next_chosen->offset == at) {
            part(specials[next_chosen->special].id, 0, 0);
            at += specials[next_chosen->special].text.size();
            ++next_chosen;
        } else if (taken[at]) {
            ++at;
        } else {
            const void * end   = memchr(&taken[at], 1, text.size() - at);
            const size_t limit = end ? (size_t) ((const char *) end - taken.data()) : text.size();
            part(LLAMA_TOKEN_NULL, at, limit - at);
            at = limit;
        }
    }
}
