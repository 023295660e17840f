// sequences, or the whole cache, as bytes

#include "treellama-impl.h"

#include <cstring>

static llama_state_seq_flags flags_of(bool partial) {
    return partial ? LLAMA_STATE_SEQ_FLAGS_PARTIAL_ONLY : 0;
}

size_t treellama_state_size(llama_context * ctx, llama_seq_id seq_id, bool partial) {
    return treellama_guard((size_t) 0, [&] {
        return seq_id < 0 ? llama_state_get_size(ctx) : llama_state_seq_get_size_ext(ctx, seq_id, flags_of(partial));
    });
}

size_t treellama_state_get(llama_context * ctx, llama_seq_id seq_id, bool partial, uint8_t * dst, size_t size) {
    return treellama_guard((size_t) 0, [&] {
        return seq_id < 0 ? llama_state_get_data(ctx, dst, size)
                          : llama_state_seq_get_data_ext(ctx, dst, size, seq_id, flags_of(partial));
    });
}

// a whole state begins with the name of an architecture, for which llama.cpp takes the memory before it reads it
static bool has_name(const uint8_t * src, size_t size) {
    uint32_t n_name;
    if (size < sizeof(n_name)) {
        return false;
    }
    memcpy(&n_name, src, sizeof(n_name));
    return n_name <= size - sizeof(n_name);
}

size_t treellama_state_set(llama_context * ctx, llama_seq_id seq_id, bool partial, const uint8_t * src, size_t size) {
    return treellama_guard((size_t) 0, [&]() -> size_t {
        if (seq_id >= 0) {
            return llama_state_seq_set_data_ext(ctx, src, size, seq_id, flags_of(partial));
        }
        return has_name(src, size) ? llama_state_set_data(ctx, src, size) : 0;
    });
}
