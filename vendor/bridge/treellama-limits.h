#pragma once

// limits that hold on both sides of the C ABI: Python reads them from here

// sequence ids of a context (LLAMA_MAX_SEQ), and threads of a pass (GGML_MAX_N_THREADS)
#define TREELLAMA_N_SEQ_MAX     256
#define TREELLAMA_N_THREADS_MAX 512

// pending nodes of a sequence
#define TREELLAMA_N_NODES_MAX 1024

// the successors' table: tokens of a context that has a row, successors of a row, classes of their shares, and token ids,
// of which three make one key (no vocabulary has two million)
#define TREELLAMA_SUCCESSORS_ORDER_MAX   3
#define TREELLAMA_SUCCESSORS_ROW_MAX     64
#define TREELLAMA_SUCCESSORS_N_CLASSES   11
#define TREELLAMA_SUCCESSORS_N_VOCAB_MAX (1 << 21)
