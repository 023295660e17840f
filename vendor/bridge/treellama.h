#pragma once

// treellama: the C ABI through which pytreellama reaches llama.cpp.
//
// llama.h is called directly where it cannot throw. Everything that can throw goes through here:
// a C++ exception becomes TREELLAMA_EXCEPTION (or NULL), and treellama_last_error() tells why.
// What llama.h does not offer (whole vocabularies in one call, top-k of many rows, trees) is here as well.
//
// One header a topic; src/pytreellama/native/declarations repeats them for cffi.

#include "treellama-limits.h"

#include "treellama-errors.h"
#include "treellama-log.h"
#include "treellama-process.h"
#include "treellama-model.h"
#include "treellama-devices.h"
#include "treellama-weights.h"
#include "treellama-vocab.h"
#include "treellama-context.h"
#include "treellama-encode.h"
#include "treellama-lora.h"
#include "treellama-tree.h"
#include "treellama-chain.h"
#include "treellama-memory.h"
#include "treellama-state.h"
#include "treellama-prefix.h"
#include "treellama-logits.h"
#include "treellama-sampling.h"
#include "treellama-draw.h"
#include "treellama-successors.h"
#include "treellama-heads.h"
#include "treellama-drafts.h"
