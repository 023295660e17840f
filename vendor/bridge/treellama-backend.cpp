// where ops run, and where their weights are kept

#include "treellama-impl.h"

#include "ggml-cpp.h"

#include <stdexcept>

ggml_backend_t treellama_cpu_backend() {
    ggml_backend_t backend = ggml_backend_init_by_type(GGML_BACKEND_DEVICE_TYPE_CPU, nullptr);
    if (!backend) {
        throw std::runtime_error("this build has no CPU backend");
    }

    return backend;
}

ggml_backend_buffer_type_t treellama_weight_buffer_type(ggml_backend_dev_t device, const ggml_tensor * op, bool packed) {
    const auto get_packed_types = (ggml_backend_dev_get_extra_bufts_t)
        ggml_backend_reg_get_proc_address(ggml_backend_dev_backend_reg(device), "ggml_backend_dev_get_extra_bufts");
    if (packed && get_packed_types) {
        ggml_tensor * weights = op->src[0];
        for (ggml_backend_buffer_type_t * type = get_packed_types(device); type && *type; ++type) {
            ggml_backend_buffer_ptr empty { ggml_backend_buft_alloc_buffer(*type, 0) };
            weights->buffer = empty.get();
            const bool fits = ggml_backend_dev_supports_op(device, op);
            weights->buffer = nullptr;
            if (fits) {
                return *type;
            }
        }
    }
    return ggml_backend_dev_buffer_type(device);
}
