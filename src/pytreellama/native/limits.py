"""Limits that both sides of the C ABI need, as its header says them."""

from __future__ import annotations

from pytreellama.native.library import lib

N_SEQ_MAX = int(lib.TREELLAMA_N_SEQ_MAX)
"""Sequence ids of a context."""

N_THREADS_MAX = int(lib.TREELLAMA_N_THREADS_MAX)
"""Threads of a pass."""

N_NODES_MAX = int(lib.TREELLAMA_N_NODES_MAX)
"""Pending nodes of a sequence."""

SUCCESSORS_ORDER_MAX = int(lib.TREELLAMA_SUCCESSORS_ORDER_MAX)
"""Tokens of the longest context under which the table keeps successors."""

SUCCESSORS_ROW_MAX = int(lib.TREELLAMA_SUCCESSORS_ROW_MAX)
"""Successors that the table keeps of a row."""

SUCCESSORS_N_CLASSES = int(lib.TREELLAMA_SUCCESSORS_N_CLASSES)
"""Classes of a successor's share of what its row kept."""

SUCCESSORS_N_VOCAB_MAX = int(lib.TREELLAMA_SUCCESSORS_N_VOCAB_MAX)
"""Token ids from 0 that the table takes."""
