#pragma once

#include "ggml-backend.h"

// let a cache that has just been cleared stand in huge pages, where the system has them: attention reads it in short strides,
//   and looks up a page for each. it is cleared again
void llama_use_huge_pages(ggml_backend_buffer_t buffer);
