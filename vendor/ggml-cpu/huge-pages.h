#pragma once

// huge pages for memory that is read from end to end: a system that gives them gives them to those who ask

#include <cstddef>

struct huge_pages {
    char * begin = nullptr;
    size_t size  = 0; // 0 if there are none
};

#if defined(__linux__)

#include <cstdint>
#include <fstream>
#include <string>

#include <sys/mman.h>

// 0 if there are none
static inline size_t huge_page_size() {
    const std::string settings = "/sys/kernel/mm/transparent_hugepage/";

    std::string enabled;
    size_t      size = 0;

    std::getline(std::ifstream(settings + "enabled"), enabled);
    std::ifstream(settings + "hpage_pmd_size") >> size;

    return enabled.find("[madvise]") != std::string::npos || enabled.find("[always]") != std::string::npos ? size : 0;
}

// those that lie within the memory, from now on: small pages that are there already stay
static inline huge_pages use_huge_pages(void * base, size_t n_bytes) {
    constexpr size_t n_min = 8; // less is looked up fast enough

    static const size_t size = huge_page_size();
    if (size == 0) {
        return {};
    }

    const uintptr_t begin = ((uintptr_t) base + size - 1)/size*size;
    const uintptr_t end   = ((uintptr_t) base + n_bytes)/size*size;

    if (end < begin + n_min*size || madvise((void *) begin, end - begin, MADV_HUGEPAGE) != 0) {
        return {};
    }
    return { (char *) begin, end - begin };
}

#else

static inline huge_pages use_huge_pages(void *, size_t) {
    return {};
}

#endif
