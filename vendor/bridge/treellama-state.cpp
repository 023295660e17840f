// sequences, or the whole cache, as bytes

#include "treellama-impl.h"

#include <cstring>

size_t treellama_state_size(llama_context * ctx, llama_seq_id seq_id) {
    return treellama_guard((size_t) 0, [&] {
        return seq_id < 0 ? llama_state_get_size(ctx) : llama_state_seq_get_size(ctx, seq_id);
    });
}

size_t treellama_state_get(llama_context * ctx, llama_seq_id seq_id, uint8_t * dst, size_t size) {
    return treellama_guard((size_t) 0, [&] {
        return seq_id < 0 ? llama_state_get_data(ctx, dst, size) : llama_state_seq_get_data(ctx, dst, size, seq_id);
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

size_t treellama_state_set(llama_context * ctx, llama_seq_id seq_id, const uint8_t * src, size_t size) {
    return treellama_guard((size_t) 0, [&]() -> size_t {
        if (seq_id >= 0) {
            return llama_state_seq_set_data(ctx, src, size, seq_id);
        }
        return has_name(src, size) ? llama_state_set_data(ctx, src, size) : 0;
    });
}
