"""ReplyGrammar: what a reply in a chat must be, calls of functions among it."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from pytreellama.constraints.call_syntax import HERMES, INDEX, KEY, NAME, CallSyntax
from pytreellama.constraints.constraint import Constraint
from pytreellama.constraints.schema import checked_tree
from pytreellama.constraints.schema_defaults import default_options
from pytreellama.model.vocab import Vocab

_ANY = "/(?s:.*)/"
_SPACE = "/[ \\n]{0,4}/"


@dataclass(frozen=True)
class ReplyGrammar:
    """Calls of functions, JSON, or either; behind reasoning, if the model reasons.

    Attributes:
        functions: that may be called, with the schemas of their arguments; none for no calls.
        syntax: how calls are written.
        allows_several: more calls than one.
        schema: of what is written instead of calls; None for calls alone.
        text_before: stands before that.
        reasoning: the tags around reasoning, if there may be some.
        is_reasoning_open: the prompt has its first tag.
    """

    functions: Mapping[str, Mapping[str, Any]]
    syntax: CallSyntax = HERMES
    allows_several: bool = False
    schema: Mapping[str, Any] | None = None
    text_before: str = ""
    reasoning: tuple[str, str] | None = None
    is_reasoning_open: bool = False

    def __call__(self, vocab: Vocab) -> Constraint:
        """The constraint for a vocabulary.

        Raises:
            GrammarError: a schema is not one, or too complex.
        """
        writer = _Lark(self, vocab)
        return ReplyConstraint(vocab, "\n".join(writer.rules()), n_levels=writer.n_levels)


class ReplyConstraint(Constraint):
    """Constrains generation to what a ``ReplyGrammar`` describes. Not thread-safe."""

    __slots__ = ()

    what = "schema of the reply"


class _Lark:
    """Writes a grammar in llguidance's notation."""

    def __init__(self, grammar: ReplyGrammar, vocab: Vocab) -> None:
        self._grammar = grammar
        self._vocab = vocab
        self.n_levels = 1

    def rules(self) -> Iterator[str]:
        grammar, syntax = self._grammar, self._grammar.syntax
        answers = ["calls"] * bool(grammar.functions) + ["text"] * (grammar.schema is not None)
        yield f"start: {self._before()} answer"
        yield f"answer: {' | '.join(answers)}"
        if grammar.reasoning is not None:
            yield from self._reasoning(*grammar.reasoning)
        if grammar.schema is not None:
            yield f"text: {self._text(grammar.text_before)} {self._json(grammar.schema)}"
        if not grammar.functions:
            return
        more = ""
        if grammar.allows_several and syntax.between is not None:
            more = f"({self._text(syntax.between)} call)*"
        yield f"calls: {self._text(syntax.before)} call {more} {self._text(syntax.after)}"
        yield "call: " + " | ".join(f"call_{i}" for i in range(len(grammar.functions)))
        for i, (name, schema) in enumerate(grammar.functions.items()):
            begin, end = syntax.begin.replace(NAME, name), self._text(syntax.end)
            yield f"call_{i}: {self._text(begin)} arguments_{i} {end}"
            if syntax.argument:
                yield from self._tagged(f"arguments_{i}", schema)
            else:
                yield f"arguments_{i}: {self._json(schema)}"

    def _before(self) -> str:
        if self._grammar.reasoning is None:
            return ""
        return "thoughts" if self._grammar.is_reasoning_open else "thoughts?"

    def _reasoning(self, begin: str, end: str) -> Iterator[str]:
        opening = "" if self._grammar.is_reasoning_open else self._text(begin)
        yield f"thoughts: {opening} thought {_SPACE}"
        yield from self._up_to("thought", end)

    def _up_to(self, rule: str, end: str) -> Iterator[str]:
        """Any text that an end follows."""
        names = self._vocab.special_names(end)
        if any(self._is_control(name) for name in names):
            yield f"{rule}: {_ANY} {self._text(end)}"  # which no other text can hold
        else:
            yield f"{rule}[suffix={json.dumps(end, ensure_ascii=False)}]: {_ANY}"

    def _tagged(self, rule: str, schema: Mapping[str, Any]) -> Iterator[str]:
        """Arguments in tags, in the order of the schema."""
        properties = dict(schema.get("properties") or {})
        required = set(schema.get("required") or ())
        parts = []
        for k, (key, one) in enumerate(properties.items()):
            parts.append(f"{rule}_{k}" + ("" if key in required else "?"))
            opening = self._text(self._grammar.syntax.argument.replace(KEY, key))
            yield f"{rule}_{k}: {opening} {rule}_{k}_value"
            yield from self._value(f"{rule}_{k}_value", one, schema)
        yield f"{rule}: {' '.join(parts) or self._text('')}"

    def _value(self, rule: str, schema: Any, root: Mapping[str, Any]) -> Iterator[str]:
        end = self._grammar.syntax.argument_end
        if not isinstance(schema, Mapping):
            schema = {}
        choices = schema.get("enum", [schema["const"]] if "const" in schema else None)
        if isinstance(choices, list) and choices and all(isinstance(c, str) for c in choices):
            texts = " | ".join(
                json.dumps(choice, ensure_ascii=False) for choice in choices if choice
            )
            yield f"{rule}: ({texts}) {self._text(end)}"
        elif schema.get("type") == "string":
            yield from self._up_to(rule, end)
        else:
            shared = {key: root[key] for key in ("$defs", "definitions") if key in root}
            yield f"{rule}: {self._json(shared | dict(schema))} {self._text(end)}"

    def _json(self, schema: Mapping[str, Any]) -> str:
        tree, n_levels = checked_tree(schema)
        self.n_levels = max(self.n_levels, n_levels)
        options = default_options(tree.root)
        root = dict(tree.root) | ({"x-guidance": options} if options else {})
        return f"%json {json.dumps(root)}"

    def _text(self, text: str) -> str:
        """A text as it is written: special tokens by their ids, all else as characters."""
        names = [name for name in self._vocab.special_names(text) if self._is_control(name)]
        pattern = "|".join(map(re.escape, [*sorted(names, key=len, reverse=True), INDEX]))
        pieces = [self._piece(piece) for piece in re.split(f"({pattern})", text) if piece]
        return " ".join(pieces) or '""'

    def _piece(self, piece: str) -> str:
        if piece == INDEX:
            return "/[0-9]{1,3}/"
        if self._is_control(piece):
            return f"<[{self._token(piece)}]>"
        return json.dumps(piece, ensure_ascii=False)

    def _is_control(self, text: str) -> bool:
        token = self._token(text)
        return token is not None and self._vocab.is_control(token)

    def _token(self, text: str) -> int | None:
        tokens = self._vocab.encode(text, add_special=False, parse_special=True)
        return tokens[0] if len(tokens) == 1 else None
