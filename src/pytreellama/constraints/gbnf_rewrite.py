"""Rules of GBNF in a form that an Earley parser reads fast, with the same texts.

A rule that ends with itself (``list ::= item "," list | item``) leaves one unfinished rule a
repetition, and all of them are finished together at each: the work of a step grows with the text.
A rule that begins with itself has no such cost, so tails become heads. Texts to choose from share
their beginnings.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator
from functools import partial

from pytreellama.constraints.gbnf import Alternative, Factor, Literal, Reference, Rules
from pytreellama.constraints.gbnf_graph import components, reachable
from pytreellama.errors import GrammarError

# Fewer texts to choose from are as fast side by side.
_MIN_TEXTS = 8

# Rules that end with each other are written out for each of them that is used elsewhere. Where that
# would be more alternatives, they stay as they are.
_MAX_WRITTEN_OUT = 2000


def rewritten(rules: Rules, root: str) -> Rules:
    """Rules with the same texts of ``root``, and no others than it needs.

    Raises:
        GrammarError: no text comes to an end.
    """
    rules = reachable(rules, root)
    for cycle in components(rules, partial(_tails, rules)):
        rules = _with_heads(rules, root, cycle)
    rules = reachable(_without_dead_ends(rules, root), root)
    for name in list(rules):
        _share_beginnings(rules, name)
    return rules


def _tail(alternative: Alternative) -> tuple[str, bool] | None:
    """The rule that an alternative ends with, and whether it may be left out there."""
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
    """The same rules where those of a cycle no longer end with each other.

    They are a finite automaton whose letters are what stands before each tail. For each rule that
    is used elsewhere, one rule for each state: the texts that lead there.
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
    """Those of a cycle that are used otherwise than at the end of each other."""
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
    """The rules that some text comes to the end of, without alternatives that lead elsewhere."""
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
    """The rules that some text comes to the end of."""
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
    """Turn the alternatives of a rule that begin with a text into a tree, one rule a branching."""
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
    """The text that an alternative begins with, and what comes after it."""
    if alternative:
        symbol = alternative[0].symbol
        if isinstance(symbol, Literal) and alternative[0].is_once:
            return symbol.text, alternative[1:]
    return "", alternative


def _groups(texts: list[str], n_shared: int) -> Iterator[list[str]]:
    """Sorted texts with the same first ``n_shared`` characters, by the one that comes next."""
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
