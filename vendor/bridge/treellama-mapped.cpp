// pages of model files that nobody reads again

#include "treellama-impl.h"

#include "llama-model.h"

#include "ggml-backend.h"

#include <algorithm>
#include <cstring>
#include <map>
#include <vector>

#if defined(__linux__)
#include <sys/mman.h>
#include <unistd.h>

namespace {

struct range {
    uintptr_t begin;
    uintptr_t end;

    bool operator<(const range & other) const { return begin < other.begin; }
};

}

// only of a mapped file: what else is dropped would be lost. File pages come again if someone looks
static void drop_pages(const range & r) {
    const uintptr_t size  = sysconf(_SC_PAGESIZE);
    const uintptr_t begin = (r.begin + size - 1)/size*size;
    const uintptr_t end   = r.end/size*size;
    if (begin < end) {
        madvise((void *) begin, end - begin, MADV_DONTNEED);
    }
}

static bool is_mapped(const ggml_tensor * t) {
    return t->data && t->buffer && strcmp(ggml_backend_buffer_name(t->buffer), "CPU_Mapped") == 0;
}

void treellama_drop_copied(const llama_model & model) {
    std::map<ggml_backend_buffer_t, std::vector<range>> read;
    for (const auto & [name, t] : model.tensors_by_name) {
        if (is_mapped(t)) {
            read[t->buffer].push_back({ (uintptr_t) t->data, (uintptr_t) t->data + ggml_nbytes(t) });
        }
    }

    for (auto & [buffer, ranges] : read) {
        std::sort(ranges.begin(), ranges.end());

        uintptr_t done = (uintptr_t) ggml_backend_buffer_get_base(buffer);
        for (const auto & r : ranges) {
            drop_pages({ done, r.begin });
            done = std::max(done, r.end);
        }
    }
}
#else
void treellama_drop_copied(const llama_model & model) {
    GGML_UNUSED(model);
}
#endif
