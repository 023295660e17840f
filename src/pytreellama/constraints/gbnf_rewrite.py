"""Rewrites GBNF rules so that an Earley parser is fast; the language stays the same.

A right-recursive rule (``list ::= item "," list | item``) leaves an incomplete item per repetition,
and every repetition completes all of them: a step takes longer as the text grows. Left recursion
has no such cost, so right recursion is rewritten as left recursion. Alternative literals become
a prefix tree.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator
from functools import partial

from pytreellama.constraints.gbnf import Alternative, Factor, Literal, Reference, Rules
from pytreellama.constraints.gbnf_graph import components, reachable
from pytreellama.errors import GrammarError

# Minimum number of literals for a prefix tree; for fewer, plain alternatives are as fast.
_MIN_TEXTS = 8

# A cycle of right-recursive rules is written out once for each of its rules that is used elsewhere.
# If that takes more alternatives than this, the cycle stays as it is.
_MAX_WRITTEN_OUT = 2000


def rewritten(rules: Rules, root: str) -> Rules:
    """Rewrite the rules; the language of ``root`` stays the same, unused rules are dropped.

    Raises:
        GrammarError: no finite text satisfies the grammar.
    """
    rules = reachable(rules, root)
    for cycle in components(rules, partial(_tails, rules)):
        rules = _with_heads(rules, root, cycle)
    rules = reachable(_without_dead_ends(rules, root), root)
    for name in list(rules):
        _share_beginnings(rules, name)
    return rules


def _tail(alternative: Alternative) -> tuple[str, bool] | None:
    """Return the rule at the end of an alternative, and whether it is optional there."""
    if not alternative:
        return None
    last = alternative[-1]
    if isinstance(last.symbol, Reference) and last.high == 1:
        return last.symbol.name, last.low == 0
    return None


def _tails(rules: Rules, name: str) -> Iterator[str]:
    for alternative in rules[name]:
        tail = _tail(alternative)
        if tail is not None:
            yield tail[0]


def _with_heads(rules: Rules, root: str, cycle: list[str]) -> Rules:
    """Replace the right recursion of a cycle of rules by left recursion.

    The cycle is a finite automaton; its letters are what comes before each tail call. For each rule
    that is used elsewhere there is one new rule per state: the texts that lead to that state.
    """
    members = set(cycle)
    starts = _entries(rules, root, members)
    if len(starts) * sum(len(rules[name]) for name in cycle) > _MAX_WRITTEN_OUT:
        return rules
    steps: dict[str, list[tuple[str, Alternative]]] = defaultdict(list)
    ends: dict[str, list[Alternative]] = defaultdict(list)
    for name in cycle:
        for alternative in rules[name]:
            tail = _tail(alternative)
            if tail is None or tail[0] not in members:
                ends[name].append(alternative)
                continue
            target, is_optional = tail
            steps[name].append((target, alternative[:-1]))
            if is_optional:
                ends[name].append(alternative[:-1])
    result = {name: rule for name, rule in rules.items() if name not in members}
    for start in starts:
        ways: Rules = {_way(start, name): [] for name in cycle}
        ways[_way(start, start)].append(())
        for name in cycle:
            before = Factor(Reference(_way(start, name)))
            for target, between in steps[name]:
                ways[_way(start, target)].append((before, *between))
        result[start] = [
            (Factor(Reference(_way(start, name))), *end) for name in cycle for end in ends[name]
        ]
        result |= ways
    return result


def _way(start: str, name: str) -> str:
    return f"{start}>{name}"


def _entries(rules: Rules, root: str, members: set[str]) -> list[str]:
    """Return the rules of a cycle that are used anywhere but at each other's ends."""
    used = {root} & members
    for name, alternatives in rules.items():
        for alternative in alternatives:
            tail = _tail(alternative)
            is_inner = name in members and tail is not None and tail[0] in members
            for factor in alternative[:-1] if is_inner else alternative:
                if isinstance(factor.symbol, Reference) and factor.symbol.name in members:
                    used.add(factor.symbol.name)
    return sorted(used)


def _without_dead_ends(rules: Rules, root: str) -> Rules:
    """Drop rules and alternatives that no finite text satisfies."""
    ending = _ending(rules)
    if root not in ending:
        raise GrammarError(
            f"the grammar: no text can satisfy it; every alternative of {root!r} leads to a rule "
            "that never ends"
        )

    def ends(factor: Factor) -> bool:
        return not isinstance(factor.symbol, Reference) or factor.symbol.name in ending

    return {
        name: [
            tuple(factor for factor in alternative if ends(factor))
            for alternative in rules[name]
            if all(ends(factor) or factor.low == 0 for factor in alternative)
        ]
        for name in ending
    }


def _ending(rules: Rules) -> set[str]:
    """Return the productive rules: those that some finite text satisfies."""
    uses: dict[str, list[tuple[str, set[str]]]] = defaultdict(list)
    ending: set[str] = set()
    todo: list[str] = []
    for name, alternatives in rules.items():
        for alternative in alternatives:
            needed = _needed(alternative)
            for other in needed:
                uses[other].append((name, needed))
            if not needed:
                todo.append(name)
    while todo:
        name = todo.pop()
        if name in ending:
            continue
        ending.add(name)
        for user, needed in uses[name]:
            needed.remove(name)
            if not needed:
                todo.append(user)
    return ending


def _needed(alternative: Alternative) -> set[str]:
    return {
        factor.symbol.name
        for factor in alternative
        if isinstance(factor.symbol, Reference) and factor.low > 0
    }


def _share_beginnings(rules: Rules, name: str) -> None:
    """Turn a rule's alternatives that begin with a literal into a prefix tree of rules."""
    texts: dict[str, list[Alternative]] = defaultdict(list)
    others: list[Alternative] = []
    for alternative in rules[name]:
        text, rest = _text_of(alternative)
        if text:
            texts[text].append(rest)
        else:
            others.append(alternative)
    if len(texts) < _MIN_TEXTS:
        return
    rules[name] = others
    todo = [(name, sorted(texts), 0)]
    while todo:
        place, here, n_shared = todo.pop()
        for group in _groups(here, n_shared):
            if len(group[0]) == n_shared:
                rules[place] += texts[group[0]]
                continue
            n_common = _n_common(group[0], group[-1], n_shared)
            common = Factor(Literal(group[0][n_shared:n_common]))
            if len(group) == 1:
                rules[place] += [(common, *rest) for rest in texts[group[0]]]
                continue
            branch = f"{name}<{len(rules)}"
            rules[branch] = []
            rules[place].append((common, Factor(Reference(branch))))
            todo.append((branch, group, n_common))


def _text_of(alternative: Alternative) -> tuple[str, Alternative]:
    """Split an alternative into its leading literal and the rest."""
    if alternative:
        symbol = alternative[0].symbol
        if isinstance(symbol, Literal) and alternative[0].is_once:
            return symbol.text, alternative[1:]
    return "", alternative


def _groups(texts: list[str], n_shared: int) -> Iterator[list[str]]:
    """Group sorted texts that share ``n_shared`` characters by their next character."""
    group: list[str] = []
    for text in texts:
        if group and text[n_shared : n_shared + 1] != group[0][n_shared : n_shared + 1]:
            yield group
            group = []
        group.append(text)
    yield group


def _n_common(first: str, last: str, n_shared: int) -> int:
    n = n_shared
    while n < min(len(first), len(last)) and first[n] == last[n]:
        n += 1
    return n
