"""More threads than cores: who waits for a thread that does not run lets it have the core."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path

import pytest

from alone import survives

# In processor time, which other processes do not lengthen. Measured: 2 threads that yield take 4 to
# 6 times what one takes, 4 take 9 to 13; threads that spin take 280 to 500 and 640 to 1400.
N_TIMES_MAX = 60

PASSES = """
import json, os, sys, time
from pytreellama import Context, Model, TokenTree
os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})
tree = TokenTree.chain([7, 8, 9])

def cost_s(model, n_threads):
    with Context(model, n_ctx=64, n_threads=n_threads) as context:
        seq = context.prefill([1, 2, 3])
        begun = time.process_time()
        for _ in range(5):
            context.decode(tree, seq=seq)
            context.discard(seq)
        return time.process_time() - begun

with Model(sys.argv[1]) as model:
    print(json.dumps([cost_s(model, 1), cost_s(model, int(sys.argv[2]))]))
"""


@pytest.mark.skipif(not hasattr(os, "sched_setaffinity"), reason="needs Linux: pins to one core")
@pytest.mark.parametrize("n_threads", [2, 4])
def test_threads_that_share_a_core_do_not_burn_each_others_time(
    tiny_model_path: Callable[..., Path], n_threads: int
) -> None:
    path = tiny_model_path("rope")
    one_s, many_s = json.loads(survives(PASSES, str(path), str(n_threads), limit_s=120))
    assert many_s < N_TIMES_MAX * one_s
