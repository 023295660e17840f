#pragma once

// regular expressions that split text for a byte-level BPE, matched without recursion

#include <cstddef>
#include <string>
#include <vector>

// the lengths of the pieces that the matches of a regex make of a text and what lies between them, each piece of `lengths`
// by itself: what std::regex (ECMAScript, leftmost, greedy, ordered alternatives) finds, in time linear in the text for
// the patterns of llama.cpp, with no recursion. Throws std::runtime_error for syntax that it does not know.
std::vector<size_t> treellama_regex_split(
        const std::string & text, const std::string & regex, const std::vector<size_t> & lengths);
std::vector<size_t> treellama_regex_split(
        const std::wstring & text, const std::wstring & regex, const std::vector<size_t> & lengths);
