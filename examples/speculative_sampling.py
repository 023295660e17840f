"""Speculative sampling with rejection: a draft model *draws* a tree, the target keeps what fits.

A child x drawn from q is kept with probability min(1, p(x) / q(x)), and the text is distributed
exactly as the target's. Draft and target are the same file here, the draft at a higher
temperature; give a smaller model of the same vocabulary to gain speed.

    python examples/speculative_sampling.py [TARGET.gguf [DRAFT.gguf]]
"""

import random
import sys

import numpy as np
from numpy.typing import NDArray

import pytreellama as ptl
from pytreellama.verify import UniformChance, rejection

N_LEVELS, N_CHILDREN, N_TOKENS = 3, 2, 48
rng = np.random.default_rng(3)


def softmax(logits: NDArray[np.float32], temperature: float) -> NDArray[np.float64]:
    """Rows of probabilities, float64."""
    scaled = logits.astype(np.float64) / temperature
    weights = np.exp(scaled - scaled.max(axis=-1, keepdims=True))
    return np.asarray(weights / weights.sum(axis=-1, keepdims=True))


target_model = ptl.Model(sys.argv[1]) if len(sys.argv) > 1 else ptl.Model.default()
draft_model = ptl.Model(sys.argv[2]) if len(sys.argv) > 2 else target_model
prompt = target_model.vocab.encode("In the morning the fisherman")
text, n_passes = list(prompt), 0

with ptl.Context(target_model, n_ctx=1024) as target, ptl.Context(draft_model, n_ctx=1024) as draft:
    seq, draft_seq = target.prefill(prompt[:-1]), draft.prefill(prompt[:-1])
    while len(text) < len(prompt) + N_TOKENS:
        # the draft: two draws without replacement at each node, level by level
        tokens, parents, level = [text[-1]], [-1], [0]
        q = softmax(draft.decode(ptl.TokenTree.chain(text[-1:]), seq=draft_seq).logits, 1.3)
        for _ in range(N_LEVELS):
            drawn = [(node, rng.choice(q.shape[1], N_CHILDREN, False, q[node])) for node in level]
            level = list(range(len(tokens), len(tokens) + N_CHILDREN * len(level)))
            parents += [node for node, children in drawn for _ in children]
            tokens += [int(child) for _, children in drawn for child in children]
            rows = draft.grow(draft_seq, tokens[level[0] :], parents[level[0] :]).logits
            q = np.vstack([q, softmax(rows, 1.3)])

        tree = ptl.TokenTree.from_parents(tokens, parents)
        p = softmax(target.decode(tree, seq=seq).logits, 1.0)  # one pass over the whole tree
        chance = UniformChance(random.Random(n_passes).random)
        verdict = rejection(tree, p.__getitem__, q.__getitem__, chance)
        target.commit(seq, verdict.path)
        draft.commit(draft_seq, verdict.path)
        text += verdict.tokens
        n_passes += 1

print(target_model.vocab.decode(text))
print(f"\n{(len(text) - len(prompt)) / n_passes:.2f} tokens per pass of the target")
