"""Monte Carlo tree search over texts: find a likely continuation that pleases a reward.

The search tree *is* a tree in the KV cache: a new node costs one pass over itself alone, whatever
the text before it. The reward here is for short words without the letter "e".

    python examples/tree_search.py [MODEL.gguf]
"""

import math
import sys
from dataclasses import dataclass, field

import pytreellama as ptl

N_SIMULATIONS, WIDTH, DEPTH, EXPLORE = 60, 4, 10, 1.5


@dataclass
class Node:
    """A text: its place in the KV cache, how likely its last token was, what visits brought."""

    path: list[int] = field(default_factory=list)
    place: int = -1
    prior: float = 1.0
    n_visits: int = 0
    total: float = 0.0
    children: "list[Node]" = field(default_factory=list)

    def worth(self, n_parent: int) -> float:
        """PUCT: the mean reward, and a bonus for likely children that were seldom visited."""
        mean = self.total / self.n_visits if self.n_visits else 0.5
        return mean + EXPLORE * self.prior * math.sqrt(n_parent) / (1 + self.n_visits)


def reward(text: str) -> float:
    """Between 0 and 1."""
    return 1.0 - min(1.0, 4 * text.lower().count("e") / max(1, len(text)))


model = ptl.Model(sys.argv[1]) if len(sys.argv) > 1 else ptl.Model.default()

with ptl.Context(model, n_ctx=1024) as context:
    seq = context.prefill(model.vocab.encode("My cat is"), logits=True)
    root, n_nodes = Node(), 0
    best = (0.0, "")
    for _ in range(N_SIMULATIONS):
        visited = [root]
        while visited[-1].children:
            n_parent = visited[-1].n_visits
            visited.append(max(visited[-1].children, key=lambda child: child.worth(n_parent)))
        leaf = visited[-1]
        if leaf.path and leaf.place < 0:  # a child that is visited for the first time
            above = visited[-2].place
            if n_nodes:
                context.grow(seq, leaf.path[-1:], [above])
            else:
                context.decode(ptl.TokenTree.chain(leaf.path), seq=seq)
            leaf.place, n_nodes = n_nodes, n_nodes + 1
        text = model.vocab.decode(leaf.path)
        if len(leaf.path) < DEPTH and (leaf is root or leaf.place == n_nodes - 1):
            tokens, logp = context.outputs.top_k(WIDTH)  # of the node that was just evaluated
            leaf.children = [
                Node([*leaf.path, int(token)], prior=math.exp(p))
                for token, p in zip(tokens[0], logp[0], strict=True)
            ]
        elif len(leaf.path) == DEPTH:
            best = max(best, (reward(text), text))
        for node in visited:
            node.n_visits += 1
            node.total += reward(text) if leaf.path else 0.5

print(f"My cat is{best[1]}")
print(f"\nreward {best[0]:.2f}; {N_SIMULATIONS} simulations, {n_nodes} nodes in the KV cache")
