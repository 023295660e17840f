#pragma once

// instruments for tests and benches: what the product has no use for
//
// They are a Python module of their own, pytreellama.native._native_testing, which reaches into the product's libraries.

#include "treellama-attention.h"
#include "treellama-cells.h"
#include "treellama-kept.h"
#include "treellama-matmul.h"
#include "treellama-order.h"
#include "treellama-probe.h"
#include "treellama-std-regex.h"
#include "treellama-wkv.h"
