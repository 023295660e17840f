"""Write the speculative loop yourself, with a verification rule of your own.

The rule here is LOSSY: it accepts a draft token if it is among the model's three likeliest.

    python examples/custom_verification.py [MODEL.gguf]
"""

import sys
from functools import partial

import numpy as np
from numpy.typing import NDArray

import pytreellama as ptl
from pytreellama.verify import match

N_LIKELIEST = 3


def choose(tree: ptl.TokenTree, likeliest: NDArray[np.int32], node: int) -> int:
    """A child that is among the node's likeliest tokens, else the likeliest token."""
    children = tree.tokens[tree.children(node)]
    accepted = [token for token in likeliest[node] if token in children]
    return int(accepted[0] if accepted else likeliest[node][0])


model = ptl.Model(sys.argv[1]) if len(sys.argv) > 1 else ptl.Model.default()
prompt = model.vocab.encode("one two three four five. one two three four five. one two")

drafter = ptl.draft.Suffix()()  # a factory makes one drafter per request
drafter.observe(prompt)

with ptl.Context(model, n_ctx=2048) as context:
    seq = context.prefill(prompt[:-1])  # the last token is the root of the first tree
    text, n_passes = list(prompt), 0

    while len(text) < len(prompt) + 40:
        tree = drafter.propose(8).with_root(text[-1])
        context.decode(tree, seq=seq)  # one pass over all nodes
        tokens, _ = context.outputs.top_k(N_LIKELIEST)  # (n_nodes, 3), likeliest first

        verdict = match(tree, partial(choose, tree, tokens))
        context.commit(seq, verdict.path)
        drafter.observe(verdict.tokens)
        text += verdict.tokens
        n_passes += 1

print(model.vocab.decode(text))
print(f"\n{len(text) - len(prompt)} tokens in {n_passes} passes")
