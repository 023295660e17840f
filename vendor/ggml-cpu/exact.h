#pragma once

// products, attention and states whose bits do not depend on what else is in the batch, as one more of the CPU backend's extra
// buffer types: ggml-cpu asks those before it computes an op itself

#include "ggml.h"

#ifdef __cplusplus

#include "invariant/invariant.h"

#include "ggml-backend.h"

#include <vector>

// adds the buffer type; true if it is to be the only one, since products of other layouts depend on the number of columns
bool ggml_cpu_exact_add_buffer_type(std::vector<ggml_backend_buffer_type_t> & types);

extern "C" {
#endif

// bytes of the work buffer that an op needs, 0 for what is not computed here
size_t ggml_cpu_exact_work_size(const struct ggml_tensor * op, int n_threads);

#ifdef __cplusplus
}
#endif
