// A product of Q4_0 weights in an AMX buffer, in a build by GCC 12, must not end the process.

#include "ggml-backend.h"
#include "ggml-cpp.h"
#include "ggml-cpu.h"
#include "ggml.h"

#include <cmath>
#include <cstdio>
#include <cstring>
#include <vector>

static ggml_backend_buffer_type_t find_amx(ggml_backend_dev_t device) {
    ggml_backend_reg_t reg       = ggml_backend_dev_backend_reg(device);
    const auto         get_types = (ggml_backend_dev_get_extra_bufts_t)
            ggml_backend_reg_get_proc_address(reg, "ggml_backend_dev_get_extra_bufts");
    for (ggml_backend_buffer_type_t * type = get_types ? get_types(device) : nullptr; type && *type; ++type) {
        if (strcmp(ggml_backend_buft_name(*type), "AMX") == 0) {
            return *type;
        }
    }
    return nullptr;
}

int main() {
    const int64_t              n_in = 256, n_out = 64, n_cols = 4;
    ggml_backend_dev_t         device = ggml_backend_dev_by_type(GGML_BACKEND_DEVICE_TYPE_CPU);
    ggml_backend_buffer_type_t amx    = find_amx(device);
    if (amx == nullptr) {
        printf("skipped: this CPU, or this build, has no AMX\n");
        return 77;
    }
    ggml_init_params params = { 16 * ggml_tensor_overhead() + ggml_graph_overhead(), nullptr, true };
    ggml_context_ptr ctx_w(ggml_init(params));
    ggml_context_ptr ctx(ggml_init(params));
    ggml_tensor *    w     = ggml_new_tensor_2d(ctx_w.get(), GGML_TYPE_Q4_0, n_in, n_out);
    ggml_tensor *    x     = ggml_new_tensor_2d(ctx.get(), GGML_TYPE_F32, n_in, n_cols);
    ggml_tensor *    y     = ggml_mul_mat(ctx.get(), w, x);
    ggml_cgraph *    graph = ggml_new_graph(ctx.get());
    ggml_build_forward_expand(graph, y);

    ggml_backend_ptr        backend(ggml_backend_dev_init(device, nullptr));
    ggml_backend_buffer_ptr weights(ggml_backend_alloc_ctx_tensors_from_buft(ctx_w.get(), amx));
    ggml_backend_buffer_ptr rest(ggml_backend_alloc_ctx_tensors(ctx.get(), backend.get()));

    const std::vector<float> ones(n_in * n_out, 1.0f);
    std::vector<char>        packed(ggml_nbytes(w));
    ggml_quantize_chunk(GGML_TYPE_Q4_0, ones.data(), packed.data(), 0, n_out, n_in, nullptr);
    ggml_backend_tensor_set(w, packed.data(), 0, packed.size());
    ggml_backend_tensor_set(x, ones.data(), 0, ggml_nbytes(x));
    ggml_backend_graph_compute(backend.get(), graph); // a fault ends the process here

    std::vector<float> sums(n_out * n_cols);
    ggml_backend_tensor_get(y, sums.data(), 0, ggml_nbytes(y));
    bool is_right = true;
    for (const float sum : sums) {
        is_right = is_right && std::fabs(sum - n_in) < 0.05f * n_in;
    }
    printf("%s: a product through AMX tiles is right\n", is_right ? "ok" : "FAIL");
    return is_right ? 0 : 1;
}
