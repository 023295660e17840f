"""Change the logits before each token is drawn, with speculation on.

A processor is a function of the text so far and a row of logits. It runs at every visited node of
a tree, under exactly the text that the node stands for, so the result is that of plain decoding.

    python examples/logits_processor.py [MODEL.gguf]
"""

import sys
from collections.abc import Sequence
from functools import partial

import numpy as np
from numpy.typing import NDArray

import pytreellama as ptl
from pytreellama.verify import match

Float32 = NDArray[np.float32]


class ShortSentences:
    """Makes a full stop likelier with every token since the last one."""

    def __init__(self, vocab: ptl.Vocab, bias: float) -> None:
        self._stop = vocab.encode(".", add_special=False)[0]
        self._bias = bias

    def __call__(self, text: Sequence[int], logits: Float32) -> Float32:
        """Logits of the next token, float32, shape (n_vocab,)."""
        n_since = list(text)[::-1].index(self._stop) if self._stop in text else len(text)
        logits[self._stop] += self._bias * n_since
        return logits


def generate(model: ptl.Model, prompt: str, max_tokens: int, n_draft: int) -> tuple[str, int]:
    """The text, and how many passes of the model it took."""
    processor = ShortSentences(model.vocab, bias=0.4)
    text = model.vocab.encode(prompt)
    n_prompt, n_passes = len(text), 0
    drafter = ptl.draft.make_drafter("suffix+recycling")
    drafter.observe(text)
    with (
        ptl.Context(model, n_ctx=2048) as context,
        ptl.Sampler(model.vocab, ptl.SamplingParams(temperature=0.2, seed=7)) as sampler,
    ):

        def draw(tree: ptl.TokenTree, logits: Float32, node: int) -> int:
            path = tree.tokens[tree.path(node)].tolist()  # from the root, which is text[-1]
            return sampler.sample_row(processor([*text[:-1], *path], logits[node]))

        seq = context.prefill(text[:-1])
        while len(text) < n_prompt + max_tokens:
            tree = drafter.propose(n_draft).with_root(text[-1])
            logits = context.decode(tree, seq=seq).logits
            verdict = match(tree, partial(draw, tree, logits))
            context.commit(seq, verdict.path)
            drafter.observe(verdict.tokens)
            text += verdict.tokens
            n_passes += 1
    return model.vocab.decode(text[n_prompt : n_prompt + max_tokens]), n_passes


model = ptl.Model(sys.argv[1]) if len(sys.argv) > 1 else ptl.Model.default()
prompt = "The cat sat. The dog sat. The cow"
plain, _ = generate(model, prompt, 40, n_draft=0)
text, n_passes = generate(model, prompt, 40, n_draft=8)
print(prompt + text)
print(f"\n40 tokens in {n_passes} passes; the same text as without drafts: {text == plain}")
