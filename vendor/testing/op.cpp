// one op by itself on the CPU

#include "op.h"

#include "ggml-cpu.h"

#include <stdexcept>
#include <string>

void treellama_compute(ggml_backend_t backend, ggml_cgraph * gf, int32_t n_threads, bool use_ref, const char * what) {
    treellama_cpu_function<ggml_backend_set_n_threads_t>("ggml_backend_set_n_threads")(backend, n_threads);
    treellama_cpu_function<decltype(ggml_backend_cpu_set_use_ref) *>("ggml_backend_cpu_set_use_ref")(backend, use_ref);

    if (ggml_backend_graph_compute(backend, gf) != GGML_STATUS_SUCCESS) {
        throw std::runtime_error(std::string("the CPU backend could not compute ") + what);
    }
}
