#include "treellama-regex.h"
#include "treellama-regex-matcher.h"

using namespace treellama::regex;

template <typename CharT>
static std::vector<size_t> split(
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

std::vector<size_t> treellama_regex_split(
        const std::string & text, const std::string & regex, const std::vector<size_t> & lengths) {
    return split(text, regex, lengths);
}

std::vector<size_t> treellama_regex_split(
        const std::wstring & text, const std::wstring & regex, const std::vector<size_t> & lengths) {
    return split(text, regex, lengths);
}
