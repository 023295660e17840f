#pragma once

#include "llama.h"

#include <cstddef>
#include <cstdint>
#include <map>
#include <utility>
#include <vector>

// llama-vocab.cpp's trie of bytes, without recursion: a token may be as long as a file allows
struct naive_trie {
    naive_trie() = default;
    naive_trie(naive_trie &&) = default;

    ~naive_trie() {
        // level by level, not each node inside of the one above
        std::vector<std::map<char, struct naive_trie>> levels;
        levels.push_back(std::move(children));
        while (!levels.empty()) {
            auto level = std::move(levels.back());
            levels.pop_back();
            for (auto & child : level) {
                if (!child.second.children.empty()) {
                    levels.push_back(std::move(child.second.children));
                    child.second.children.clear();
                }
            }
        }
    }

    void insert(const char * key, size_t len, int32_t value = 0) {
        struct naive_trie * node = this;
        for (size_t i = 0; i < len; ++i) {
            node = &node->children[key[i]];
        }
        node->has_value = true;
        node->value     = value;
    }

    // how much of key stands in the trie, with key itself
    std::pair<const char *, size_t> get_longest_prefix(const char * key, size_t len) const {
        const struct naive_trie * node = this;
        size_t offset = 0;
        while (offset < len && (node = node->traverse(key[offset])) != nullptr) {
            ++offset;
        }
        return std::make_pair(key, offset);
    }

    // length of the longest value that key begins with, 0 if there is none
    size_t get_longest_value(const char * key, size_t len) const {
        const struct naive_trie * node = this;
        size_t res = 0;
        for (size_t i = 0; i < len && (node = node->traverse(key[i])) != nullptr; ++i) {
            if (node->has_value) {
                res = i + 1;
            }
        }
        return res;
    }

    const struct naive_trie * traverse(const char c) const {
        const auto res = children.find(c);
        return res != children.end() ? &res->second : nullptr;
    }

    std::map<char, struct naive_trie> children;
    bool        has_value = false;
    llama_token value     = 0;
};
