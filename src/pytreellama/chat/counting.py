"""The counting that a chat template's code gets while it is compiled."""
# ruff: noqa: N802, N815 - the names of visitors are Jinja's

from __future__ import annotations

from collections.abc import Callable, Mapping
from itertools import islice
from typing import Any

from jinja2 import nodes
from jinja2.compiler import CodeGenerator, Frame
from jinja2.visitor import NodeTransformer

from pytreellama.chat.work import listed, refuse, size, spend, weigh, weighed

NODES_MAX = 10_000
"""Expressions and statements of a template, those in others too; those of models have 1,500."""

_BODIES = (nodes.For, nodes.Macro, nodes.CallBlock, nodes.Block)


class BoundedCodeGenerator(CodeGenerator):
    """Writes a template as Python that counts its work."""

    def visit_Template(self, node: nodes.Template, frame: Frame | None = None) -> None:
        """Generate code that counts its work; refuse a template with too many nodes."""
        if sum(1 for _ in islice(node.find_all(nodes.Node), NODES_MAX + 1)) > NODES_MAX:
            refuse(f"it has more than {NODES_MAX} expressions and statements")
        super().visit_Template(_Counting().visit(node), frame)


class _Counting(NodeTransformer):
    """Puts the counting into a template's tree.

    Every pass of a loop and every call of a macro counts the nodes of its body. What is
    compared, joined, sliced or hashed passes through a filter that spends its size.
    """

    def visit_For(self, node: nodes.For) -> nodes.For:
        self.generic_visit(node)
        if node.test is not None:
            node.test = nodes.And(_counting(_n_nodes(node.test), node), node.test)
        _count_body(node)
        return node

    def visit_Macro(self, node: nodes.Macro) -> nodes.Macro:
        self.generic_visit(node)
        _count_body(node)
        return node

    visit_CallBlock = visit_Block = visit_Macro

    def visit_Concat(self, node: nodes.Concat) -> nodes.Concat:
        self.generic_visit(node)
        node.nodes = [_passed("_weighed", part) for part in node.nodes]
        return node

    def visit_Compare(self, node: nodes.Compare) -> nodes.Compare:
        self.generic_visit(node)
        is_to_constant = any(
            isinstance(one, nodes.Const) for one in (node.expr, *(op.expr for op in node.ops))
        )
        for operand in node.ops:
            if operand.op in ("in", "notin"):
                operand.expr = _passed("_searched", operand.expr)
            elif not is_to_constant:  # which ends where the constant does
                operand.expr = _passed("_weighed", operand.expr)
        if not is_to_constant:
            node.expr = _passed("_weighed", node.expr)
        return node

    def visit_Getitem(self, node: nodes.Getitem) -> nodes.Expr:
        self.generic_visit(node)
        if isinstance(node.arg, nodes.Slice):
            return _passed("_copied", node)
        node.arg = _passed("_weighed", node.arg)
        return node

    def visit_Pair(self, node: nodes.Pair) -> nodes.Pair:
        self.generic_visit(node)
        node.key = _passed("_weighed", node.key)
        return node


def _count_body(node: Any) -> None:
    n_nodes = 1 + sum(map(_n_nodes, node.body))
    node.body.insert(0, nodes.ExprStmt(_counting(n_nodes, node), lineno=node.lineno))


def _n_nodes(node: nodes.Node) -> int:
    """Nodes of a tree and its text; bodies that count themselves are left out."""
    if isinstance(node, nodes.TemplateData):
        return 1 + size(node.data)
    own_body = set(map(id, node.body)) if isinstance(node, _BODIES) else set()
    children = (one for one in node.iter_child_nodes() if id(one) not in own_body)
    return 1 + sum(map(_n_nodes, children))


def _counting(n_nodes: int, node: nodes.Node) -> nodes.Expr:
    return nodes.EnvironmentAttribute(f"go_through({n_nodes})", lineno=node.lineno)


def _passed(name: str, node: nodes.Expr) -> nodes.Expr:
    """The expression, passed through one of ``GUARDS``."""
    if isinstance(node, nodes.Const):
        return node
    return nodes.Filter(node, name, [], [], None, None, lineno=node.lineno)


def _searched(value: Any) -> Any:
    """What ``in`` looks through; mappings and sets are not gone through."""
    if isinstance(value, (str, bytes)):
        spend(size(value))
    elif not isinstance(value, (Mapping, set, frozenset, range)):
        value = listed(value)
        weigh(value)
    return value


def _copied(value: Any) -> Any:
    spend(size(value))
    return value


GUARDS: dict[str, Callable[[Any], Any]] = {
    "_weighed": weighed,
    "_searched": _searched,
    "_copied": _copied,
}
"""Filters that values pass through, under names that the compiled code has."""
