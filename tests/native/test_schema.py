"""JSON schemas: what is drawn under one parses and satisfies it."""

from __future__ import annotations

import gc
import json
import math
import threading
import weakref
from collections.abc import Callable
from pathlib import Path
from typing import Any
from unittest.mock import Mock

import numpy as np
import pytest

from pytreellama import Model
from pytreellama.constraints.schema import JsonSchemaConstraint
from pytreellama.constraints.schema_defaults import FORMATS
from pytreellama.context.context import Context
from pytreellama.errors import GrammarError
from pytreellama.model.vocab import Vocab
from pytreellama.sampling.params import SamplingParams
from pytreellama.sampling.sampler import Sampler

PERSON = {
    "type": "object",
    "properties": {
        "name": {"type": "string", "maxLength": 5},
        "age": {"type": "integer", "minimum": 0, "maximum": 150},
        "tall": {"type": "boolean"},
        "kind": {"enum": ["cat", "dog"]},
    },
    "required": ["name", "age", "tall", "kind"],
    "additionalProperties": False,
    "x-guidance": {"whitespace_flexible": False},
}


@pytest.fixture(scope="session")
def vocab(tiny_model: Callable[..., Model]) -> Vocab:
    return tiny_model("rope").vocab


def tokens_of(vocab: Vocab, text: str) -> list[int]:
    """One token a byte: what no tokenizer would write, and a constraint must take all the same."""
    by_piece = {piece: token for token, piece in enumerate(vocab.pieces) if len(piece) == 1}
    return [by_piece[text[i : i + 1].encode()] for i in range(len(text))]


def allowed(constraint: JsonSchemaConstraint, vocab: Vocab) -> set[int]:
    return {token for token in range(vocab.n_tokens) if constraint.allows(token)}


def masked(constraint: JsonSchemaConstraint, vocab: Vocab) -> set[int]:
    bits = np.unpackbits(constraint.mask().view(np.uint8), bitorder="little")
    return set(np.flatnonzero(bits).tolist())


def draw_text(sampler: Sampler, seed: int) -> str:
    rng = np.random.default_rng(seed)
    vocab = sampler.vocab
    tokens: list[int] = []
    while len(tokens) < 500:
        token = sampler.sample_row(rng.normal(0.0, 3.0, vocab.n_tokens).astype(np.float32))
        if token in vocab.eog_tokens:
            return vocab.decode_bytes(tokens).decode()
        tokens.append(token)
    raise AssertionError(f"no end after 500 tokens: {vocab.decode_bytes(tokens)!r}")


def check_person(text: str) -> None:
    person = json.loads(text)
    assert set(person) == {"name", "age", "tall", "kind"}
    assert isinstance(person["name"], str) and len(person["name"]) <= 5
    assert isinstance(person["age"], int) and 0 <= person["age"] <= 150
    assert isinstance(person["tall"], bool)
    assert person["kind"] in ("cat", "dog")


@pytest.mark.parametrize("seed", range(8))
def test_random_logits_still_write_what_the_schema_says(vocab: Vocab, seed: int) -> None:
    params = SamplingParams(temperature=1.0, json_schema=PERSON, seed=seed)
    check_person(draw_text(Sampler(vocab, params), seed))


def test_greedy_choice_under_a_schema_fits_it_too(vocab: Vocab) -> None:
    check_person(draw_text(Sampler(vocab, SamplingParams(json_schema=json.dumps(PERSON))), 3))


def test_a_real_model_answers_in_the_schemas_form(default_model: Model) -> None:
    vocab = default_model.vocab
    sampler = Sampler(vocab, SamplingParams(json_schema=PERSON))
    tokens: list[int] = []
    with Context(default_model, n_ctx=256) as context:
        seq = context.prefill(vocab.encode("A person as JSON:\n"), logits=True)
        while (token := sampler.sample(context.outputs, 0)) not in vocab.eog_tokens:
            tokens.append(token)
            context.prefill([token], seq, logits=True)
    check_person(vocab.decode(tokens))


def test_the_mask_has_all_tokens_that_are_allowed_where_there_is_a_choice(vocab: Vocab) -> None:
    constraint = JsonSchemaConstraint(vocab, {"type": "integer"})
    for token in tokens_of(vocab, "-12"):
        assert masked(constraint, vocab) == allowed(constraint, vocab)
        constraint.accept(token)
    assert masked(constraint, vocab) == allowed(constraint, vocab)


def test_the_mask_has_one_allowed_token_where_the_text_is_forced(vocab: Vocab) -> None:
    constraint = JsonSchemaConstraint(vocab, PERSON)
    written = b""
    for _ in range(len('{"name":"')):
        (token,) = masked(constraint, vocab)
        assert token in allowed(constraint, vocab)
        constraint.accept(token)
        written += vocab.pieces[token]
        if written == b'{"name":"':
            break
    assert written == b'{"name":"'
    assert len(masked(constraint, vocab)) > 10


def test_at_the_end_only_an_end_of_generation_is_allowed(vocab: Vocab) -> None:
    constraint = JsonSchemaConstraint(vocab, {"type": "boolean"})
    for token in tokens_of(vocab, "true"):
        assert not constraint.is_complete
        constraint.accept(token)
    assert constraint.is_complete and not constraint.is_finished
    assert allowed(constraint, vocab) == masked(constraint, vocab) == vocab.eog_tokens
    constraint.accept(min(vocab.eog_tokens))
    assert constraint.is_finished
    assert allowed(constraint, vocab) == masked(constraint, vocab) == vocab.eog_tokens


def test_a_number_may_end_or_go_on(vocab: Vocab) -> None:
    constraint = JsonSchemaConstraint(vocab, {"type": "integer"})
    one, letter = tokens_of(vocab, "1a")
    constraint.accept(one)
    assert constraint.is_complete
    assert constraint.allows(one) and constraint.allows(min(vocab.eog_tokens))
    assert not constraint.allows(letter)


def test_a_refused_token_changes_nothing(vocab: Vocab) -> None:
    constraint = JsonSchemaConstraint(vocab, {"type": "integer"})
    one, letter = tokens_of(vocab, "1a")
    for wrong in (letter, min(vocab.eog_tokens), -1, vocab.n_tokens):
        with pytest.raises(GrammarError, match=f"token {wrong} "):
            constraint.accept(wrong)
    constraint.accept(one)


def test_clones_go_separate_ways_and_reset_goes_back(vocab: Vocab) -> None:
    constraint = JsonSchemaConstraint(vocab, {"enum": ["ab", "cd"]})
    quote, a, c = tokens_of(vocab, '"ac')
    constraint.accept(quote)
    clone = constraint.clone()
    constraint.accept(a)
    clone.accept(c)
    assert not constraint.allows(c)
    constraint.reset()
    assert constraint.allows(quote) and not constraint.allows(a)


def test_a_samplers_clone_goes_on_alike_under_a_schema(vocab: Vocab) -> None:
    sampler = Sampler(vocab, SamplingParams(temperature=1.0, json_schema=PERSON, seed=1))
    rng = np.random.default_rng(0)
    rows = rng.normal(0.0, 3.0, (10, vocab.n_tokens)).astype(np.float32)
    for row in rows[:5]:
        sampler.sample_row(row)
    clone = sampler.clone()
    assert [sampler.sample_row(r) for r in rows[5:]] == [clone.sample_row(r) for r in rows[5:]]


@pytest.mark.parametrize(
    ("schema", "reason"),
    [
        ("{bad", "not JSON"),
        ("[]", "not JSON|object"),
        ("3", "not JSON|object"),
        ({"type": "nonsense"}, "nonsense"),
        ({"$ref": "#/missing"}, "missing"),
        ({"type": "string", "pattern": "("}, "regex"),
        ({"type": "number", "minimum": 3, "maximum": 1}, "nsatisfiable"),
        ({"type": "object", "if": {"const": 1}}, "if"),
        ({"$ref": "#"}, "no text can satisfy it; perhaps it refers to itself"),
        ({"$defs": {"a": {"$ref": "#/$defs/a"}}, "$ref": "#/$defs/a"}, "refers to itself"),
        ({"type": object()}, "not JSON"),
    ],
)
def test_a_schema_that_cannot_be_used_is_an_error_with_the_reason(
    vocab: Vocab, schema: Any, reason: str
) -> None:
    with pytest.raises(GrammarError, match=reason):
        JsonSchemaConstraint(vocab, schema)


def test_a_vocabulary_is_prepared_once_and_not_kept_alive(
    tiny_model_path: Callable[..., Path],
) -> None:
    from pytreellama import Model
    from pytreellama.constraints.tokens import tokenizer_of

    model = Model(tiny_model_path("rope"))
    constraint = JsonSchemaConstraint(model.vocab, {"type": "null"})
    assert tokenizer_of(model.vocab) is tokenizer_of(model.vocab)
    vocab = weakref.ref(model.vocab)
    del constraint, model
    gc.collect()
    assert vocab() is None


def fits(vocab: Vocab, schema: Any, text: str) -> bool:
    """Can the whole of a text be written under a schema?"""
    constraint = JsonSchemaConstraint(vocab, schema)
    for token in tokens_of(vocab, text):
        if not constraint.allows(token):
            return False
        constraint.accept(token)
    return constraint.is_complete


DEEP: Any = {"a": [{"b": {"c": [[{"d": {}}]]}}], "e": None}


@pytest.mark.parametrize("indent", [None, 0, 1, 2, 4, 5, "\t"])
def test_pretty_printed_json_can_be_written(vocab: Vocab, indent: Any) -> None:
    assert fits(vocab, {"type": "object"}, json.dumps(DEEP, indent=indent))


@pytest.mark.parametrize("text", ['{"a":1}', '{ "a" : 1 }', '{\r\n  "a": 1\r\n}', '{\n\n"a": 1}'])
def test_usual_white_space_can_be_written(vocab: Vocab, text: str) -> None:
    assert fits(vocab, {"type": "object"}, text)


@pytest.mark.parametrize(
    "text", ["{\n\n\n}", "{" + " " * 9 + "}", "{\n" + " " * 41 + "}", "{ \n \n}"]
)
def test_white_space_without_end_cannot(vocab: Vocab, text: str) -> None:
    assert not fits(vocab, {"type": "object"}, text)
    assert fits(vocab, {"type": "object", "x-guidance": {"whitespace_flexible": True}}, text)


NAMED = {"type": "object", "properties": {"a": {"type": "integer"}, "b": {"type": "integer"}}}


def test_an_object_that_names_its_members_has_no_others(vocab: Vocab) -> None:
    for text in ("{}", '{"a": 1}', '{"a": 1, "b": 2}'):
        assert fits(vocab, NAMED, text)
    assert not fits(vocab, NAMED, '{"a": 1, "c": 3}')
    assert not fits(vocab, {"items": {"$ref": "#/$defs/x"}, "$defs": {"x": NAMED}}, '[{"c": 1}]')


def test_a_schema_opens_its_objects_itself(vocab: Vocab) -> None:
    assert fits(vocab, NAMED | {"additionalProperties": True}, '{"a": 1, "c": "d"}')
    assert fits(vocab, NAMED | {"additionalProperties": {"type": "null"}}, '{"a": 1, "c": null}')
    assert fits(vocab, {"type": "object"}, '{"c": [1]}')


def test_combined_objects_can_be_satisfied(vocab: Vocab) -> None:
    other = {"properties": {"c": {"type": "integer"}}, "required": ["c"]}
    assert fits(vocab, {"allOf": [NAMED, other]}, '{"a": 1, "b": 2, "c": 3}')
    assert fits(vocab, NAMED | {"required": ["c"]}, '{"c": 1}')


def test_a_tool_without_arguments_is_called_with_none(vocab: Vocab) -> None:
    assert fits(vocab, {"type": "object", "properties": {}}, "{}")
    assert not fits(vocab, {"type": "object", "properties": {}}, '{"a": 1}')


def test_every_format_that_is_kept_to_is_known_to_llguidance(vocab: Vocab) -> None:
    for name in sorted(FORMATS):
        JsonSchemaConstraint(vocab, {"type": "string", "format": name})
    assert fits(vocab, {"type": "string", "format": "date"}, '"2026-01-31"')
    assert not fits(vocab, {"type": "string", "format": "date"}, '"a"')


@pytest.mark.parametrize("name", ["path", "binary", "password", "regex", "no such format"])
def test_unknown_formats_are_ignored(vocab: Vocab, name: str) -> None:
    assert fits(vocab, {"type": "string", "format": name}, '"a"')


def test_a_schema_of_many_levels_is_used_as_one_of_few(vocab: Vocab) -> None:
    links: dict[str, Any] = {
        f"d{i}": {"allOf": [{"$ref": f"#/$defs/d{i + 1}"}]} for i in range(1000)
    }
    links["d1000"] = {"type": "integer"}
    schema = {"$ref": "#/$defs/d0", "$defs": links}
    assert fits(vocab, schema, "12") and not fits(vocab, schema, '"a"')
    links["d1000"] = {"type": "nonsense"}
    with pytest.raises(GrammarError, match="nonsense"):
        JsonSchemaConstraint(vocab, schema)
    assert threading.stack_size() == 0


class PanicException(BaseException):
    """As pyo3's, which cannot be imported."""


def test_a_panic_is_an_error_of_ours_and_ends_nothing_else(vocab: Vocab) -> None:
    constraint = JsonSchemaConstraint(vocab, {"type": "integer"})

    class Broken:
        def __getattr__(self, name: str) -> Any:
            def panic(*arguments: Any) -> Any:
                raise PanicException("entered unreachable code\nbacktrace")

            return panic

    constraint._matcher = Broken()  # type: ignore[assignment]
    for use in (
        constraint.mask,
        constraint.clone,
        lambda: constraint.allows(5),
        lambda: constraint.accept(5),
        lambda: constraint.is_complete,
    ):
        with pytest.raises(GrammarError, match="llguidance failed: entered unreachable code"):
            use()


def test_an_interrupt_is_not_taken_for_a_panic(vocab: Vocab) -> None:
    constraint = JsonSchemaConstraint(vocab, {"type": "integer"})
    constraint._matcher = Mock(is_stopped=Mock(side_effect=KeyboardInterrupt))
    with pytest.raises(KeyboardInterrupt):
        constraint.mask()


@pytest.mark.parametrize(
    "value", [math.nan, math.inf, 10**4000 * 10**4000], ids=["nan", "inf", "huge"]
)
def test_numbers_that_are_no_json_are_refused(vocab: Vocab, value: Any) -> None:
    with pytest.raises(GrammarError, match="not JSON"):
        JsonSchemaConstraint(vocab, {"type": "number", "multipleOf": value})
    with pytest.raises(GrammarError, match="not JSON"):
        JsonSchemaConstraint(vocab, '{"minimum": NaN}')
