"""Write a watermark into a text while speculating, and detect it again.

Each token is drawn from a distribution that favours a "green" half of the vocabulary, which the
token before it selects. (Kirchenbauer et al. 2023, arXiv:2301.10226)

    python examples/watermark.py [MODEL.gguf]
"""

import itertools
import math
import sys
from collections.abc import Sequence
from functools import partial

import numpy as np
from numpy.typing import NDArray

import pytreellama as ptl
from pytreellama.verify import match

Float32 = NDArray[np.float32]
KEY, DELTA, N_TOKENS = 2026, 3.0, 60


def is_green(before: int, n_vocab: int) -> NDArray[np.bool_]:
    """The half of the vocabulary that is favoured after a token, bool, shape (n_vocab,)."""
    return np.random.default_rng([KEY, before]).random(n_vocab) < 0.5


def z_score(text: Sequence[int], n_vocab: int) -> float:
    """How many standard deviations more green tokens than chance; above 4 is a watermark."""
    pairs = list(itertools.pairwise(text))
    n_green = sum(is_green(before, n_vocab)[token] for before, token in pairs)
    return float(n_green - len(pairs) / 2) / math.sqrt(len(pairs) / 4)


def write(model: ptl.Model, prompt: Sequence[int], delta: float) -> list[int]:
    """``N_TOKENS`` tokens, drawn with ``delta`` added to the logits of green tokens."""
    text, n_vocab = list(prompt), model.vocab.n_tokens
    drafter = ptl.draft.make_drafter("suffix+recycling")
    drafter.observe(text)
    with (
        ptl.Context(model, n_ctx=1024) as context,
        ptl.Sampler(model.vocab, ptl.SamplingParams(temperature=1.0, top_p=0.95, seed=1)) as draws,
    ):

        def draw(tree: ptl.TokenTree, logits: Float32, node: int) -> int:
            green = is_green(int(tree.tokens[node]), n_vocab)  # each node has its own half
            return draws.sample_row(logits[node] + delta * green.astype(np.float32))

        seq = context.prefill(text[:-1])
        while len(text) < len(prompt) + N_TOKENS:
            tree = drafter.propose(8).with_root(text[-1])
            logits = context.decode(tree, seq=seq).logits
            verdict = match(tree, partial(draw, tree, logits))
            context.commit(seq, verdict.path)
            drafter.observe(verdict.tokens)
            text += verdict.tokens
    return text[len(prompt) :]


model = ptl.Model(sys.argv[1]) if len(sys.argv) > 1 else ptl.Model.default()
prompt = model.vocab.encode("The history of the lighthouse begins")
for name, delta in (("plain", 0.0), ("watermarked", DELTA)):
    text = write(model, prompt, delta)
    print(f"{name}, z = {z_score(text, model.vocab.n_tokens):.1f}:{model.vocab.decode(text)}\n")
