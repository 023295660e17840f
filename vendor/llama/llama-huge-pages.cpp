#include "llama-huge-pages.h"

#if defined(__linux__)

#include "ggml-cpu.h"

#include <cstdint>
#include <fstream>
#include <string>

#include <sys/mman.h>

static const char * const SETTINGS = "/sys/kernel/mm/transparent_hugepage/";

// smaller caches are looked up fast enough, and their contexts are made often
static constexpr size_t N_PAGES_MIN = 8;

// 0 if there are none
static size_t huge_page_size() {
    std::string enabled;
    size_t      size = 0;

    std::getline(std::ifstream(std::string(SETTINGS) + "enabled"), enabled);
    std::ifstream(std::string(SETTINGS) + "hpage_pmd_size") >> size;

    return enabled.find("[madvise]") != std::string::npos || enabled.find("[always]") != std::string::npos ? size : 0;
}

void llama_use_huge_pages(ggml_backend_buffer_t buffer) {
    // not what a device has pinned
    if (ggml_backend_buffer_get_type(buffer) != ggml_backend_cpu_buffer_type()) {
        return;
    }

    static const size_t size = huge_page_size();
    if (size == 0) {
        return;
    }

    const uintptr_t base  = (uintptr_t) ggml_backend_buffer_get_base(buffer);
    const uintptr_t begin = (base + size - 1)/size*size;
    const uintptr_t end   = (base + ggml_backend_buffer_get_size(buffer))/size*size;

    if (end < begin + N_PAGES_MIN*size || madvise((void *) begin, end - begin, MADV_HUGEPAGE) != 0) {
        return;
    }

    // small pages that are there already would stay: new ones come as the buffer is cleared
    if (madvise((void *) begin, end - begin, MADV_DONTNEED) == 0) {
        ggml_backend_buffer_clear(buffer, 0);
    }
}

#else

void llama_use_huge_pages(ggml_backend_buffer_t) {
}

#endif
