#pragma once

// special tokens in text: which are there, and what of the text lies between them

#include "llama.h"

#include <cstddef>
#include <cstdint>
#include <functional>
#include <string>
#include <vector>

class treellama_specials {
public:
    // tokens in the order of their precedence, longer ones first
    void assign(const std::vector<llama_token> & tokens, const std::function<const std::string & (llama_token)> & text_of);

    // parts of a text in order: a special token, or LLAMA_TOKEN_NULL for text of this offset and length.
    // The first token of the order takes its leftmost places, then the next one what is left, and so on; a token with
    // LLAMA_TOKEN_ATTR_LSTRIP or RSTRIP takes the white space beside it. Control tokens only if parse_special.
    void split(
            const std::string & text, bool parse_special,
            const std::function<llama_token_attr(llama_token)> & attr_of,
            const std::function<void(llama_token, size_t offset, size_t length)> & part) const;

private:
    struct node {
        uint32_t child    = 0; // the first one; 0 is the root, which is nobody's child
        uint32_t sibling  = 0;
        uint32_t suffix   = 0; // the longest other beginning of a token that ends here
        uint32_t shorter  = 0; // the nearest of these that is a token; 0 if none
        int32_t  special  = -1;
        uint8_t  byte     = 0;
    };

    struct special {
        llama_token id;
        std::string text;
    };

    struct place {
        uint32_t special;
        uint32_t offset;
    };

    uint32_t child_of(uint32_t at, uint8_t byte) const;
    uint32_t next(uint32_t at, uint8_t byte) const;

    std::vector<uint32_t> count(const std::string & text) const;
    std::vector<place> places(const std::string & text, const std::vector<bool> & wanted) const;

    std::vector<special>  specials;
    std::vector<node>     nodes;
    std::vector<uint32_t> order;     // of nodes, the short ones first
    uint32_t              roots[256] = {};
};
