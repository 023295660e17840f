#pragma once

#include "ggml.h"

#include <set>

// how a graph reads and writes recurrent states

// the tensors that hold the states, of all layers
using llama_state_caches = std::set<const ggml_tensor *>;

// a tensor without arithmetic of its own
bool llama_is_view(const ggml_tensor * t);

// the tensor that a view is of
      ggml_tensor * llama_root_of(      ggml_tensor * t);
const ggml_tensor * llama_root_of(const ggml_tensor * t);

bool llama_writes_state(const llama_state_caches & caches, const ggml_tensor * t);

// states that were read from a cache
bool llama_is_gathered(const llama_state_caches & caches, const ggml_tensor * t);
