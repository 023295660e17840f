#pragma once

// llama.cpp's log

#include "llama.h"

#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

// collect llama.cpp's log in a ring of lines instead of printing it
LLAMA_API void treellama_log_collect(void);

// number of lines waiting
LLAMA_API int32_t treellama_log_pending(void);

// take the oldest line: its length, or -1 if none; longer lines are cut to size-1 bytes
LLAMA_API int32_t treellama_log_next(int32_t * level, char * buf, int32_t size);

#ifdef __cplusplus
}
#endif
