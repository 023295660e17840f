"""JSON schemas as constraints on the next token, through llguidance (Earley parser, token masks).

Importing it takes tens of milliseconds, and so waits until a schema is used.
"""

from __future__ import annotations

import json
import re
import threading
import weakref
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, ParamSpec, TypeVar

import numpy as np
from numpy.typing import NDArray

from pytreellama.core.schema_defaults import default_options, settle
from pytreellama.core.schema_limits import MAX_SCHEMAS, check_data, check_length, check_tree
from pytreellama.core.schema_tree import SchemaTree
from pytreellama.core.vocab import Vocab
from pytreellama.errors import GrammarError
from pytreellama.process import InterpreterCalls

if TYPE_CHECKING:
    from llguidance import LLMatcher, LLTokenizer
    from llguidance._lib import JsonCompileOptions

P = ParamSpec("P")
T = TypeVar("T")

# llguidance's own bounds on its work; fuel is some 14 units a us, an item 20 us. Named here so that
# a new version does not change what is accepted.
_LIMITS = {
    "max_items_in_row": 2000,
    "initial_lexer_fuel": 1_000_000,
    "step_lexer_fuel": 200_000,
    "step_max_items": 20_000,
    "max_lexer_states": 250_000,
    "max_grammar_size": 500_000,
    "verbose_errors": False,
}

# Stack for each level that llguidance recurses, three times what was measured. What is deeper than
# the least stack that a thread may have (512 kB on macOS) is built in a thread with more.
_LEVEL_BYTES = 16 * 1024
_MAX_LEVELS_HERE = 32
_stack_size_lock = threading.Lock()

# Of a text that must come only the next token is used.
_MAX_FORCED_BYTES = 4096

# Longer tokens fit no schema, as they fit no grammar: llguidance fails on them.
_MAX_TOKEN_BYTES = 512

# building a tokenizer's prefix tree takes 100 ms and more for large vocabularies
_tokenizers: weakref.WeakKeyDictionary[Vocab, LLTokenizer] = weakref.WeakKeyDictionary()


class JsonSchemaConstraint:
    """What may come next in a text that must satisfy a JSON schema. Not for several threads.

    Args:
        vocab: the vocabulary of the model that writes the text.
        schema: a mapping, or JSON text. Objects whose ``properties`` are named are closed unless
            their ``additionalProperties`` says otherwise. llguidance's ``x-guidance`` key sets its
            options (white space, for one).

    Raises:
        GrammarError: not JSON, not a schema, unsatisfiable, too complex, or using keywords that
            are not supported.
    """

    __slots__ = ("_eog", "_matcher", "_n_tokens", "_start", "_vocab", "is_finished")

    def __init__(self, vocab: Vocab, schema: Mapping[str, Any] | str) -> None:
        self._vocab = vocab
        self._eog = vocab.eog_tokens
        self._n_tokens = vocab.n_tokens
        self._start = _new_matcher(vocab, schema)
        self._matcher = _call(self._start.deep_copy)
        self.is_finished = False
        """True once an end-of-generation token was accepted: then only such tokens may follow."""

    @property
    def is_complete(self) -> bool:
        """Does the text so far satisfy the schema? (It may still be possible to go on.)"""
        return _call(self._matcher.is_accepting)

    def allows(self, token: int) -> bool:
        """May ``token`` come next? An end of generation may once the text is complete."""
        if token in self._eog:
            return self.is_finished or self.is_complete
        if self.is_finished or not 0 <= token < self._n_tokens:
            return False
        if _call(self._matcher.is_stopped):
            return False
        return _call(self._matcher.validate_tokens, [token]) == 1

    def mask(self) -> NDArray[np.uint32]:
        """One bit a token, bit i % 32 of word i // 32: set if the token may come next.

        Where the schema leaves only one text (a key, a brace), only the token that the model's
        own tokenizer would write it with is set, though ``allows`` is true for any that fits.

        Returns:
            uint32, shape (ceil(n_tokens / 32),).

        Raises:
            GrammarError: the schema became too complex for llguidance's limits.
        """
        if self.is_finished or _call(self._matcher.is_stopped):
            return self._eog_mask()
        mask = np.frombuffer(_call(self._matcher.compute_bitmask), dtype=np.uint32)
        _require_sound(self._matcher)
        return mask

    def accept(self, token: int) -> None:
        """Go on past ``token``.

        Raises:
            GrammarError: the token is not allowed here; the constraint stays as it was.
        """
        if not self.allows(token):
            piece = self._vocab.piece(token, special=True) if 0 <= token < self._n_tokens else b""
            raise GrammarError(f"token {token} ({piece!r}) does not fit the JSON schema here")
        if token in self._eog:
            self.is_finished = True
        else:
            _call(self._matcher.consume_token, token)
            _require_sound(self._matcher)

    def clone(self) -> JsonSchemaConstraint:
        """An independent constraint in the same state."""
        other: JsonSchemaConstraint = object.__new__(type(self))
        other._vocab, other._eog, other._n_tokens = self._vocab, self._eog, self._n_tokens
        other._start = self._start
        other._matcher = _call(self._matcher.deep_copy)
        other.is_finished = self.is_finished
        return other

    def reset(self) -> None:
        """Go back to the start of the text."""
        self._matcher = _call(self._start.deep_copy)
        self.is_finished = False

    def _eog_mask(self) -> NDArray[np.uint32]:
        mask = np.zeros((self._n_tokens + 31) // 32, dtype=np.uint32)
        for token in self._eog:
            mask[token // 32] |= np.uint32(1 << (token % 32))
        return mask


def _schema_tree(schema: Mapping[str, Any] | str) -> SchemaTree:
    """A schema of one's own, which nothing else refers to."""
    try:
        text = schema if isinstance(schema, str) else json.dumps(dict(schema), allow_nan=False)
        check_length(text)
        parsed = json.loads(text, parse_constant=_refuse_constant)
    except GrammarError:
        raise
    except (ValueError, TypeError, RecursionError) as error:
        raise GrammarError(f"the JSON schema is not JSON: {error}") from error
    if not isinstance(parsed, dict):
        raise GrammarError(f"the JSON schema must be an object, not {type(parsed).__name__}")
    check_data(parsed)
    return SchemaTree(parsed, MAX_SCHEMAS + 1)


def _refuse_constant(name: str) -> None:
    raise ValueError(f"{name} is no JSON")


def _new_matcher(vocab: Vocab, schema: Mapping[str, Any] | str) -> LLMatcher:
    tree = _schema_tree(schema)
    n_levels = check_tree(tree)
    settle(tree)
    text = json.dumps(tree.root)
    tokenizer, defaults = _tokenizer(vocab), default_options(tree.root)
    if n_levels <= _MAX_LEVELS_HERE:
        return _call(_built, tokenizer, text, defaults)
    return _with_stack(n_levels * _LEVEL_BYTES, _built, tokenizer, text, defaults)


def _built(tokenizer: LLTokenizer, schema: str, defaults: JsonCompileOptions) -> LLMatcher:
    from llguidance import LLMatcher, LLParserLimits

    try:
        grammar = LLMatcher.grammar_from_json_schema(schema, defaults)
    except ValueError as error:
        raise GrammarError(f"JSON schema: {_reason(str(error))}") from error
    limits = LLParserLimits(**_LIMITS)  # type: ignore[arg-type]
    matcher = LLMatcher(tokenizer, grammar, log_level=0, limits=limits)
    _require_sound(matcher)
    matcher.compute_bitmask()
    _require_sound(matcher)  # that nothing can begin a text shows only here
    return matcher


def _with_stack(n_bytes: int, function: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
    """What a function returns or raises, run in a thread with a stack of this size."""
    results: list[T] = []
    errors: list[Exception] = []

    def run() -> None:
        try:
            results.append(_call(function, *args, **kwargs))
        except Exception as error:
            errors.append(error)

    thread = threading.Thread(target=run, name="pytreellama-schema", daemon=True)
    try:
        with _stack_size_lock:
            size = threading.stack_size(max(n_bytes, 2**20))
            try:
                thread.start()
            finally:
                threading.stack_size(size)
    except (RuntimeError, ValueError) as error:
        raise GrammarError(
            f"no thread could be started for a JSON schema that nests deep: {error}"
        ) from error
    thread.join()
    if errors:
        raise errors[0]
    return results[0]


_calls = InterpreterCalls()


def _call(function: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
    """What a function of llguidance returns; a panic there becomes an error of ours.

    Panics come as a ``BaseException`` of a type that cannot be imported.

    Raises:
        GrammarError: llguidance panicked.
    """
    try:
        with _calls:
            return function(*args, **kwargs)
    except BaseException as error:
        if type(error).__name__ != "PanicException":
            raise
        raise GrammarError(f"JSON schema: llguidance failed: {_reason(str(error))}") from error


def _require_sound(matcher: LLMatcher) -> None:
    if matcher.is_error():
        raise GrammarError(f"JSON schema: {_told(matcher.get_error())}")


def _tokenizer(vocab: Vocab) -> LLTokenizer:
    tokenizer = _tokenizers.get(vocab)
    if tokenizer is None:
        from llguidance import LLTokenizer, TokenizerWrapper

        eog = sorted(vocab.eog_tokens)
        if not eog:
            raise GrammarError("this vocabulary has no end-of-generation token: no schema can end")
        tokens = _Tokens(vocab, eog[0])
        tokenizer = _call(LLTokenizer, TokenizerWrapper(tokens), eos_token=eog)
        _tokenizers[vocab] = tokenizer
    return tokenizer


class _Tokens:
    """A vocabulary as llguidance wants it. Holds it weakly: the cache's values outlive no key."""

    def __init__(self, vocab: Vocab, eos: int) -> None:
        self._vocab = weakref.ref(vocab)
        self.eos_token_id = eos
        self.bos_token_id = vocab.bos
        self.tokens = [piece if len(piece) <= _MAX_TOKEN_BYTES else b"" for piece in vocab.pieces]
        self.special_token_ids = sorted(vocab.control_tokens | vocab.eog_tokens)
        self._by_piece = {piece: token for token, piece in enumerate(self.tokens) if piece}
        self._n_longest = max(map(len, self._by_piece))

    def __call__(self, text: bytes | str) -> list[int]:
        """Tokens of a piece of text that need not be the first: what a schema forces to come."""
        data = _beginning(text.encode("utf-8") if isinstance(text, str) else text)
        tokens = self._encode_as_the_model_would(data)
        return tokens if self._bytes_of(tokens) == data else self._encode_longest_first(data)

    def _encode_as_the_model_would(self, data: bytes) -> list[int]:
        vocab = self._vocab()
        if vocab is None:
            raise GrammarError("the model of this JSON schema is gone")
        return vocab.encode_continuation(data.decode("utf-8", "replace"))

    def _encode_longest_first(self, data: bytes) -> list[int]:
        tokens: list[int] = []
        while data:
            lengths = range(min(len(data), self._n_longest), 0, -1)
            piece = next((data[:n] for n in lengths if data[:n] in self._by_piece), None)
            if piece is None:
                raise GrammarError(f"no token of the vocabulary begins {data!r}")
            tokens.append(self._by_piece[piece])
            data = data[len(piece) :]
        return tokens

    def _bytes_of(self, tokens: list[int]) -> bytes:
        return b"".join(self.tokens[token] for token in tokens)


def _beginning(data: bytes) -> bytes:
    """The first bytes of UTF-8, whole characters of it."""
    n = min(len(data), _MAX_FORCED_BYTES)
    while 0 < n < len(data) and data[n] & 0xC0 == 0x80:
        n -= 1
    return data[:n]


def _told(error: str) -> str:
    """What a matcher tells, where it is more than the name of its state."""
    line = _reason(error)
    if line.startswith("NoExtension"):
        return "no text can satisfy it; perhaps it refers to itself without end"
    return line


_MAX_REASON = 400  # characters


def _reason(text: str) -> str:
    """llguidance's words on one line; its advice on options that are not ours is replaced."""
    reason = " ".join(text.split())
    for theirs, ours in _IN_OUR_WORDS:
        if theirs in reason:
            return ours
    reason = re.sub(
        r"Unimplemented keys: \[(.*)\]",
        r"these keywords are not supported: \1; remove them",
        reason,
    )
    return reason[:_MAX_REASON]


_IN_OUR_WORDS = (
    ("coerce_one_of", "the branches of a oneOf may overlap; use anyOf"),
    ("Default retriever", "references to other documents are not supported; put them into $defs"),
)
