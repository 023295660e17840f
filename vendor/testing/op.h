#pragma once

#include "treellama-impl.h"

// compute a graph on the CPU's backend; throws std::runtime_error
void treellama_compute(ggml_backend_t backend, ggml_cgraph * gf, int32_t n_threads, bool use_ref, const char * what);
