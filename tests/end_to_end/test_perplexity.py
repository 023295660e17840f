"""The kernels round as little as stock's: perplexity of the default model on a fixed text."""

from __future__ import annotations

import json
import math
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from exactness import needs_exact
from prompts import load_prompts
from pytreellama import Batch, Context, Model, quantize
from pytreellama.system import cpu_features

TESTS = Path(__file__).parents[1]
N_TOKENS = 400
STOCK = {"GGML_CPU_INVARIANT": "0", "LLAMA_KQ_ORDER_DISABLE": "1"}


def perplexity(model: Model) -> float:
    """Of the test prompts' text, each token seen behind all before it."""
    text = "\n".join(message["content"] for p in load_prompts() for message in p["messages"])
    tokens = np.array(model.vocab.encode(text)[:N_TOKENS])
    with Context(model, n_ctx=512, n_batch=512, flash_attention=True) as context:
        batch = Batch(len(tokens))
        batch.add(tokens, np.arange(len(tokens)), 0, np.ones(len(tokens), dtype=bool))
        context.decode(batch)
        logits = context.outputs.logits[:-1].astype(np.float64)
    logits -= logits.max(axis=1, keepdims=True)
    logp = logits - np.log(np.exp(logits).sum(axis=1, keepdims=True))
    return math.exp(-float(logp[np.arange(len(logp)), tokens[1:]].mean()))


@needs_exact
@pytest.mark.parametrize(("file_type", "tolerance"), [("F16", 1e-3), ("Q4_1", 1e-2)])
def test_perplexity_is_stocks(
    default_model: Model, model_directory: Path, file_type: str, tolerance: float
) -> None:
    """Stock's in a process of its own, since the variables are read once.

    Activations that are rounded to 8 bits leave noise on so short a text: stock's own attention and
    ours, with the same products of Q4_1, are 0.6% apart. F16 tells more.
    """
    path = default_model.path
    if file_type != "Q4_1":
        path = quantize(path, model_directory / f"perplexity-{file_type}.gguf", file_type)
    done = subprocess.run(
        [sys.executable, __file__, str(path)],
        env={**os.environ, **STOCK, "PYTHONPATH": str(TESTS)},
        capture_output=True,
        text=True,
        check=True,
    )
    stock = json.loads(done.stdout.splitlines()[-1])
    assert "INVARIANT" not in stock["features"]
    with Model(path) as model:
        ours = perplexity(model)
    print(f"{file_type}: perplexity {ours:.4f}, stock's {stock['perplexity']:.4f}")
    assert 1 < ours < 1000
    assert ours == pytest.approx(stock["perplexity"], rel=tolerance)


if __name__ == "__main__":
    report = {"perplexity": perplexity(Model(sys.argv[1])), "features": cpu_features()}
    print(json.dumps(report))
