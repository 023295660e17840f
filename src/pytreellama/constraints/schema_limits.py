"""Limits on a JSON schema: beyond them llguidance overflows its stack or takes minutes.

Measured with llguidance 1.9.1: it recurses along references and nesting, with up to 5.2 kB of
stack per level; an object with n optional properties takes n**2 * 0.2 us; each further pattern on
the same value doubles the time; patterns of property names are compared in pairs.
"""

from __future__ import annotations

import re
from collections import defaultdict
from typing import Any

from pytreellama.constraints.schema_tree import ANY_NAME, Node, SchemaTree
from pytreellama.errors import GrammarError

MAX_LENGTH = 2**20
MAX_NESTING = 120
MAX_SCHEMAS = 10_000
MAX_LEVELS = 8192
MAX_PROPERTIES = 1000
MAX_NAME_PATTERNS = 64
MAX_PATTERNS_AT_ONCE = 12
MAX_REPEATED = 100_000
MAX_TEXT = 20_000
_MAX_VISITS = 100_000

# Optional white space splits forced text into short pieces. Without white space, thousands of
# literals can form one forced text, which llguidance scans at every step.
MAX_JOINED_TEXT = 500
MAX_JOINED_REPEATED = 2000

# Keywords whose texts are never generated: no length limit.
_PROSE = {"title", "description", "$comment", "default", "examples", "pattern", "x-guidance"}

_WHITESPACE_OPTIONS = ("whitespace_pattern", "whitespace_flexible")

_REGEX_ITEM = re.compile(
    r"""
      (?P<escape> \\.)
    | (?P<chars>  \[(?:\\.|[^\]\\])*(?:\]|\Z|\\\Z))
    | (?P<repeat> \{(?P<low>\d*)(?:,(?P<high>\d*))?\})
    | (?P<open>   \()
    | (?P<close>  \))
    | (?P<other>  .)
    """,
    re.VERBOSE | re.DOTALL,
)


def check_length(text: str) -> None:
    """Raise GrammarError if the JSON text of a schema is too long."""
    _require(
        len(text) <= MAX_LENGTH, f"it has {len(text)} characters, at most {MAX_LENGTH} are allowed"
    )


def check_data(root: Node) -> None:
    """Raise GrammarError if a schema is nested too deep or has a string that is too long."""
    n_max = MAX_JOINED_TEXT if has_own_whitespace(root) else MAX_TEXT
    todo: list[tuple[Any, int]] = [(root, 0)]
    while todo:
        value, depth = todo.pop()
        if isinstance(value, str):
            _check_text(value, n_max)
            continue
        _require(depth <= MAX_NESTING, f"it nests deeper than {MAX_NESTING}; use $defs")
        if isinstance(value, list):
            todo.extend((member, depth + 1) for member in value)
        elif isinstance(value, dict):
            for name, member in value.items():
                _check_text(name, n_max)
                if not (name in _PROSE and isinstance(member, str)):
                    todo.append((member, depth + 1))


def check_tree(tree: SchemaTree) -> int:
    """Upper bound on llguidance's recursion depth along nesting and references.

    Raises:
        GrammarError: too deep, or too many schemas, properties or patterns.
    """
    _require(
        len(tree.places) <= MAX_SCHEMAS,
        f"it holds more than {MAX_SCHEMAS} schemas",
    )
    n_repeated = MAX_JOINED_REPEATED if has_own_whitespace(tree.root) else MAX_REPEATED
    for place in tree.places:
        _check_node(place.node, n_repeated)
    n_levels = (1 + max(place.depth for place in tree.places)) * (1 + len(tree.references()))
    _require(
        n_levels <= MAX_LEVELS,
        f"its nesting and its references make {n_levels} levels, at most {MAX_LEVELS} are "
        "allowed; refer to fewer definitions",
    )
    _check_patterns(tree)
    return n_levels


def _check_node(node: Node, n_repeated: int) -> None:
    for keyword, n_max in (
        ("properties", MAX_PROPERTIES),
        ("patternProperties", MAX_NAME_PATTERNS),
    ):
        n = len(node[keyword]) if isinstance(node.get(keyword), dict) else 0
        _require(n <= n_max, f"{keyword} has {n} entries, at most {n_max} are allowed")
    patterns = [node.get("pattern")]
    if isinstance(node.get("patternProperties"), dict):
        patterns += node["patternProperties"]
    for pattern in patterns:
        _require(
            not isinstance(pattern, str) or _repeated_length(pattern) <= n_repeated,
            f"the pattern {str(pattern)[:40]!r} has more than {n_repeated} characters, "
            "counted as often as they repeat",
        )


def _repeated_length(pattern: str) -> int:
    """Number of items in a regular expression after all repeats are expanded."""
    sums, last = [0], 0
    for match in _REGEX_ITEM.finditer(pattern):
        kind = match.lastgroup
        if kind == "open":
            sums[-1] += last
            sums.append(0)
            last = 0
        elif kind == "close" and len(sums) > 1:
            last += sums.pop()
        elif kind == "repeat":
            bounds = [int(bound[:9]) for bound in match.group("low", "high") if bound]
            last *= max(bounds, default=1) if last else 0
        else:
            sums[-1] += last
            last = 1
    return sum(sums) + last


def _check_patterns(tree: SchemaTree) -> None:
    """Raise GrammarError for too many patterns on one value.

    Their intersection takes exponential time. Patterns are grouped by property name, which may
    count too many, never too few.
    """
    seen: set[int] = set()
    n_visits = 0
    for place in tree.places:
        if id(place.node) in seen or not tree.combines(place.node):
            continue
        patterns: defaultdict[str, set[str]] = defaultdict(set)
        todo = [(place.node, ANY_NAME)]
        met: set[tuple[int, str]] = set()
        while todo:
            node, name = todo.pop()
            if (id(node), name) in met:
                continue
            met.add((id(node), name))
            _require(n_visits + len(met) <= _MAX_VISITS, "too many schemas bear on one value")
            patterns[name] |= {
                f"{keyword} {node[keyword]}"
                for keyword in ("pattern", "format")
                if isinstance(node.get(keyword), str)
            }
            todo.extend(
                (child.node, name if child.name is None else child.name)
                for child in tree.applied(node)
            )
        seen |= {node_id for node_id, _ in met}
        n_visits += len(met)
        anywhere = patterns.pop(ANY_NAME, set())
        n_most = max((len(some | anywhere) for some in patterns.values()), default=len(anywhere))
        _require(
            n_most <= MAX_PATTERNS_AT_ONCE,
            f"{n_most} patterns may bear on one value, at most {MAX_PATTERNS_AT_ONCE} are allowed",
        )


def _check_text(text: str, n_max: int) -> None:
    _require(
        len(text) <= n_max,
        f"the text {text[:20]!r}... has {len(text)} characters, at most {n_max} are allowed",
    )


def has_own_whitespace(root: Node) -> bool:
    """True if a schema sets its own white space, which may be none."""
    own = root.get("x-guidance")
    return isinstance(own, dict) and not own.keys().isdisjoint(_WHITESPACE_OPTIONS)


def _require(holds: bool, otherwise: str) -> None:
    if not holds:
        raise GrammarError(f"the JSON schema is too complex: {otherwise}")
