#pragma once

// rows of K or V on their way into the second cache, while others are at work

#include "op.h"

#if defined(FATTN_ORDERED)

#if defined(_MSC_VER)
#define FATTN_INLINE __forceinline
#else
#define FATTN_INLINE inline __attribute__((always_inline))
#endif

// a line of memory on its way into the first cache, or into the second one
// always inline: gcc 12 takes a function that only prefetches for one without effect
template <bool is_first>
static FATTN_INLINE void fetch_line(const void * p) {
#if defined(_MSC_VER) && (defined(__x86_64__) || defined(_M_X64))
    _mm_prefetch((const char *) p, is_first ? _MM_HINT_T0 : _MM_HINT_T1);
#elif !defined(_MSC_VER)
    __builtin_prefetch(p, 0, is_first ? 3 : 2);
#else
    GGML_UNUSED(p);
#endif
}

// a block of all heads is more than the first cache holds, and its cells stand where no processor looks by itself
struct fattn_fetch {
    const char    * data  = nullptr; // of cell 0
    size_t          nb    = 0;
    size_t          size  = 0;
    const int32_t * cells = nullptr;
    int64_t         n     = 0;

    FATTN_INLINE void row(int64_t j) const {
        const uintptr_t begin = (uintptr_t) (data + cells[j]*nb);

        // a line that begins before the row comes with what is there, most often the head before
        for (uintptr_t p = GGML_PAD(begin, 64); p < begin + size; p += 64) {
            fetch_line<false>((const void *) p);
        }
    }

    FATTN_INLINE void rows(int64_t begin, int64_t end) const {
        for (int64_t j = begin; j < std::min(end, n); ++j) {
            row(j);
        }
    }

    // how many at a time, if all shall be fetched in n_parts
    int64_t part(int64_t n_parts) const {
        return (n + n_parts - 1)/n_parts;
    }
};

#endif // FATTN_ORDERED
