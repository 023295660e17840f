#pragma once

// sets of characters

#include <algorithm>
#include <bitset>
#include <cstdint>
#include <iterator>
#include <utility>
#include <vector>

namespace treellama::regex {

constexpr uint32_t MAX_CHAR = 0xFFFFFFFF;

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

}
