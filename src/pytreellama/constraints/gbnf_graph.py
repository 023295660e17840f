"""Reference graph of a grammar's rules. All searches are loops, not recursion."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator

from pytreellama.constraints.gbnf import Reference, Rules


def references(rules: Rules, name: str) -> Iterator[str]:
    """Return the rules that a rule refers to, in order and with repeats."""
    for alternative in rules[name]:
        for factor in alternative:
            if isinstance(factor.symbol, Reference):
                yield factor.symbol.name


def reachable(rules: Rules, root: str) -> Rules:
    """Return the rules that are reachable from ``root``."""
    found = {root: rules[root]}
    todo = [root]
    while todo:
        for name in references(rules, todo.pop()):
            if name not in found:
                found[name] = rules[name]
                todo.append(name)
    return found


def n_levels(rules: Rules, root: str) -> int:
    """Depth of a depth-first search that visits each rule once."""
    seen = {root}
    path = [references(rules, root)]
    deepest = 1
    while path:
        name = next(path[-1], None)
        if name is None:
            path.pop()
        elif name not in seen:
            seen.add(name)
            path.append(references(rules, name))
            deepest = max(deepest, len(path))
    return deepest


def components(names: Iterable[str], edges: Callable[[str], Iterable[str]]) -> list[list[str]]:
    """Strongly connected components that contain a cycle (Tarjan, 1972)."""
    order: dict[str, int] = {}
    low: dict[str, int] = {}
    pending: dict[str, None] = {}
    found: list[list[str]] = []
    for start in names:
        if start in order:
            continue
        path = [(start, iter(list(edges(start))))]
        order[start] = low[start] = len(order)
        pending[start] = None
        while path:
            name, targets = path[-1]
            target = next(targets, None)
            if target is None:
                path.pop()
                if path:
                    low[path[-1][0]] = min(low[path[-1][0]], low[name])
                if low[name] == order[name]:
                    members = _taken(pending, name)
                    if len(members) > 1 or name in edges(name):
                        found.append(members)
            elif target not in order:
                order[target] = low[target] = len(order)
                pending[target] = None
                path.append((target, iter(list(edges(target)))))
            elif target in pending:
                low[name] = min(low[name], order[target])
    return found


def _taken(pending: dict[str, None], until: str) -> list[str]:
    """Pop pending rules down to ``until`` and return them as one component."""
    members = []
    while True:
        name, _ = pending.popitem()
        members.append(name)
        if name == until:
            return members
