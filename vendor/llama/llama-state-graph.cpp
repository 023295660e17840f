#include "llama-state-graph.h"

bool llama_is_view(const ggml_tensor * t) {
    switch (t->op) {
        case GGML_OP_NONE:
        case GGML_OP_VIEW:
        case GGML_OP_RESHAPE:
        case GGML_OP_PERMUTE:
        case GGML_OP_TRANSPOSE:
            return true;
        default:
            return false;
    }
}

ggml_tensor * llama_root_of(ggml_tensor * t) {
    return t->view_src ? t->view_src : t;
}

const ggml_tensor * llama_root_of(const ggml_tensor * t) {
    return t->view_src ? t->view_src : t;
}

bool llama_writes_state(const llama_state_caches & caches, const ggml_tensor * t) {
    return !llama_is_view(t) && caches.count(llama_root_of(t)) > 0;
}

bool llama_is_gathered(const llama_state_caches & caches, const ggml_tensor * t) {
    return t->op == GGML_OP_GET_ROWS && caches.count(llama_root_of(t->src[0])) > 0;
}
