#pragma once

// statuses, and what went wrong

#include "llama.h"

#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

// statuses beyond those of llama_decode (0, 1, 2, -1, -2, -3)
#define TREELLAMA_EXCEPTION     -100
#define TREELLAMA_NO_CANDIDATE  -101

// what went wrong in this thread's last call that failed; never NULL
LLAMA_API const char * treellama_last_error(void);

#ifdef __cplusplus
}
#endif
