#pragma once

#include "ggml.h"

#include <cstddef>

struct ggml_compute_params;

// matrix products (MUL_MAT and MUL_MAT_ID) whose bits do not depend on the number of columns, on the columns beside, or on
// the number of threads
//
// rows of weights are unpacked once for all columns, so that a few columns cost little more than one. GGML_CPU_INVARIANT=0
// gives what is used otherwise, as do CPUs without the instructions

bool ggml_cpu_invariant_enabled(void);

// false if another path has to compute dst
bool ggml_cpu_invariant_supported(const struct ggml_tensor * dst);

size_t ggml_cpu_invariant_work_size(const struct ggml_tensor * dst, int n_threads);

void ggml_compute_forward_mul_mat_invariant(const struct ggml_compute_params * params, struct ggml_tensor * dst);

// weights can be packed when they are loaded. they take memory of their own, and no bit of a product changes

bool ggml_cpu_invariant_is_packed(const struct ggml_tensor * w);
bool ggml_cpu_invariant_can_pack (const struct ggml_tensor * w);
void ggml_cpu_invariant_pack     (struct ggml_tensor * w, const void * data);
