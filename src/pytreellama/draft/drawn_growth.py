"""Growth by drawing: children are samples of the draft model, for verification by rejection."""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterator, Sequence
from random import Random

from pytreellama.draft.growth import TRUNK, Level, Row
from pytreellama.tree import TokenTree

N_KEPT = 40
"""Children are drawn from so many likeliest tokens: any distribution will do."""

Drawn = dict[tuple[int, ...], Row]
"""By the path of a node from the text's end: what its children were drawn from."""


def growing_by_draws(
    children: Callable[[int], Row],
    n_children: Sequence[int],
    n_nodes: int,
    temperature: float,
    random: Random,
    drawn: Drawn,
) -> Generator[Level, list[int], TokenTree]:
    """A tree whose nodes are drawn without replacement, level by level; as ``growth.growing``.

    Which nodes there are depends on earlier draws and on the shape alone, never on a node's own
    token, as ``verify.rejection`` needs it. Source: Sequoia (arXiv 2402.12374).

    Args:
        children: likeliest tokens after a node, with their probabilities.
        n_children: children of a node on each level.
        n_nodes: most nodes, in order of level.
        temperature: of the draws.
        random: decides them.
        drawn: gets what children were drawn from.
    """
    tokens: list[int] = []
    parents: list[int] = []
    p: list[float] = []
    level: list[tuple[tuple[int, ...], int, int]] = [((), TRUNK, TRUNK)]  # path, name, node
    for depth, n in enumerate(n_children):
        first = len(tokens)
        below: list[tuple[tuple[int, ...], int]] = []  # path, the parent's name
        for path, name, node in level:
            row = tempered(children(name), temperature)
            drawn[path] = row
            p_parent = 1.0 if node == TRUNK else p[node]
            for token, p_token in draws(row, min(n, n_nodes - len(tokens)), random):
                tokens.append(token)
                parents.append(node)
                p.append(p_parent * p_token)
                below.append(((*path, token), name))
        if not below or depth + 1 == len(n_children) or len(tokens) >= n_nodes:
            break
        names = yield Level(tokens[first:], [name for _, name in below], sum(p[first:]))
        if not names:
            break
        level = [(path, names[i], first + i) for i, (path, _) in enumerate(below)]
    return TokenTree.from_grown(tokens, parents, p)


def tempered(row: Row, temperature: float) -> Row:
    """The tokens of a row that are possible, at a temperature; their probabilities sum to 1."""
    possible = [(token, p) for token, p in zip(*row, strict=True) if p > 0]
    if not possible:
        return [], []
    largest = max(p for _, p in possible)
    weights = [(p / largest) ** (1 / temperature) for _, p in possible]
    total = sum(weights)
    return [token for token, _ in possible], [weight / total for weight in weights]


def draws(row: Row, n: int, random: Random) -> Iterator[tuple[int, float]]:
    """Up to n tokens drawn one after the other without replacement, each with its probability."""
    tokens, p = list(row[0]), list(row[1])
    for _ in range(min(n, len(tokens))):
        (i,) = random.choices(range(len(tokens)), p)
        yield tokens[i], p[i]
        del tokens[i], p[i]
        if not sum(p) > 0:  # what is left underflowed
            return
