#include "llama-huge-pages.h"

#if defined(__linux__)

#include "ggml-cpu.h"
#include "huge-pages.h"

void llama_use_huge_pages(ggml_backend_buffer_t buffer) {
    // not what a device has pinned
    if (ggml_backend_buffer_get_type(buffer) != ggml_backend_cpu_buffer_type()) {
        return;
    }

    const auto pages = use_huge_pages(ggml_backend_buffer_get_base(buffer), ggml_backend_buffer_get_size(buffer));

    // small pages that are there already would stay: new ones come as the buffer is cleared
    if (pages.size > 0 && madvise(pages.begin, pages.size, MADV_DONTNEED) == 0) {
        ggml_backend_buffer_clear(buffer, 0);
    }
}

#else

void llama_use_huge_pages(ggml_backend_buffer_t) {
}

#endif
