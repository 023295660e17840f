#pragma once

#include "llama-adapter.h"

#include <cstdint>
#include <memory>
#include <vector>

struct llama_context;

// the sets of LoRA adapters that passes of a context have used. Requests with different adapters take turns, and with
//   llama_set_adapters_lora() each turn would reserve the memory of the graphs again
class llama_lora_sets {
public:
    // from the next pass on the context uses these adapters; scales[i] != 0.0f
    void use(llama_context & ctx, llama_adapter_lora * const * adapters, const float * scales, size_t n);

private:
    // a graph is known by the address of its set, so none is freed before all graphs are
    std::vector<std::unique_ptr<llama_adapter_loras>> sets;

    llama_adapter_loras * cur = nullptr; // the context's own until the first use

    uint32_t n_nodes = 0; // of all adapters of the model, for which graphs have room
};
