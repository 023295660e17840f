"""Beam search on a tree in the KV cache: all beams of a depth are one pass, prefixes are shared.

python examples/beam_search.py [MODEL.gguf]
"""

import sys

import numpy as np

import pytreellama as ptl

WIDTH, DEPTH = 4, 24

model = ptl.Model(sys.argv[1]) if len(sys.argv) > 1 else ptl.Model.default()
prompt = model.vocab.encode("The best way to learn a language is")

with ptl.Context(model, n_ctx=1024) as context:
    seq = context.prefill(prompt, logits=True)
    tokens, logp = context.outputs.top_k(WIDTH)
    beams = [[int(token)] for token in tokens[0]]
    scores = logp[0].astype(np.float64)
    context.decode(ptl.TokenTree.from_paths(beams), seq=seq)
    ends = list(range(WIDTH))  # the node at which each beam ends

    for _ in range(DEPTH - 1):
        # the last pass was over the ends of the beams: its rows are theirs
        tokens, logp = context.outputs.top_k(WIDTH)
        totals = scores[:, None] + logp
        best = np.argsort(-totals, axis=None, kind="stable")[:WIDTH]
        parents, ranks = np.unravel_index(best, totals.shape)

        beams = [[*beams[p], int(tokens[p, r])] for p, r in zip(parents, ranks, strict=True)]
        scores = totals[parents, ranks]
        numbers = context.prune(seq, [ends[p] for p in parents])  # drop what no beam goes on from
        above = [int(numbers[ends[p]]) for p in parents]
        context.grow(seq, [beam[-1] for beam in beams], above)
        n_nodes = int(numbers.max()) + 1
        ends = list(range(n_nodes, n_nodes + WIDTH))

for beam, score in sorted(zip(beams, scores, strict=True), key=lambda each: -each[1]):
    print(f"{score:7.2f} {model.vocab.decode(beam)!r}")
