#pragma once

// the start and the end of the process

#include "llama.h"

#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

// once, when the libraries are loaded: the end of the process waits for calls that other threads are in, and a child made
// by fork starts with pools of its own
LLAMA_API void treellama_process_start(void);

#ifdef __cplusplus
}
#endif
