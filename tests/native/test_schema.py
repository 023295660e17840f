"""JSON schemas: what is drawn under one parses and satisfies it."""

from __future__ import annotations

import gc
import json
import weakref

import numpy as np
import pytest

from pytreellama.core.context import Context
from pytreellama.core.sampler import Sampler
from pytreellama.core.sampling import SamplingParams
from pytreellama.core.schema import JsonSchemaConstraint
from pytreellama.errors import GrammarError

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
def vocab(tiny_model):
    return tiny_model("rope").vocab


def tokens_of(vocab, text: str) -> list[int]:
    """One token a byte: what no tokenizer would write, and a constraint must take all the same."""
    by_piece = {piece: token for token, piece in enumerate(vocab.pieces) if len(piece) == 1}
    return [by_piece[text[i : i + 1].encode()] for i in range(len(text))]


def allowed(constraint: JsonSchemaConstraint, vocab) -> set[int]:
    return {token for token in range(vocab.n_tokens) if constraint.allows(token)}


def masked(constraint: JsonSchemaConstraint, vocab) -> set[int]:
    bits = np.unpackbits(constraint.mask().view(np.uint8), bitorder="little")
    return set(np.flatnonzero(bits).tolist())


def draw_text(sampler: Sampler, seed: int) -> str:
    rng = np.random.default_rng(seed)
    vocab, tokens = sampler.vocab, []
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
def test_random_logits_still_write_what_the_schema_says(vocab, seed):
    params = SamplingParams(temperature=1.0, json_schema=PERSON, seed=seed)
    check_person(draw_text(Sampler(vocab, params), seed))


def test_greedy_choice_under_a_schema_fits_it_too(vocab):
    check_person(draw_text(Sampler(vocab, SamplingParams(json_schema=json.dumps(PERSON))), 3))


def test_a_real_model_answers_in_the_schemas_form(default_model):
    vocab = default_model.vocab
    sampler = Sampler(vocab, SamplingParams(json_schema=PERSON))
    tokens: list[int] = []
    with Context(default_model, n_ctx=256) as context:
        seq = context.prefill(vocab.encode("A person as JSON:\n"), logits=True)
        while (token := sampler.sample(context, 0)) not in vocab.eog_tokens:
            tokens.append(token)
            context.prefill([token], seq, logits=True)
    check_person(vocab.decode(tokens))


def test_the_mask_has_all_tokens_that_are_allowed_where_there_is_a_choice(vocab):
    constraint = JsonSchemaConstraint(vocab, {"type": "integer"})
    for token in tokens_of(vocab, "-12"):
        assert masked(constraint, vocab) == allowed(constraint, vocab)
        constraint.accept(token)
    assert masked(constraint, vocab) == allowed(constraint, vocab)


def test_the_mask_has_one_allowed_token_where_the_text_is_forced(vocab):
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


def test_at_the_end_only_an_end_of_generation_is_allowed(vocab):
    constraint = JsonSchemaConstraint(vocab, {"type": "boolean"})
    for token in tokens_of(vocab, "true"):
        assert not constraint.is_complete
        constraint.accept(token)
    assert constraint.is_complete and not constraint.is_finished
    assert allowed(constraint, vocab) == masked(constraint, vocab) == vocab.eog_tokens
    constraint.accept(min(vocab.eog_tokens))
    assert constraint.is_finished
    assert allowed(constraint, vocab) == masked(constraint, vocab) == vocab.eog_tokens


def test_a_number_may_end_or_go_on(vocab):
    constraint = JsonSchemaConstraint(vocab, {"type": "integer"})
    one, letter = tokens_of(vocab, "1a")
    constraint.accept(one)
    assert constraint.is_complete
    assert constraint.allows(one) and constraint.allows(min(vocab.eog_tokens))
    assert not constraint.allows(letter)


def test_a_refused_token_changes_nothing(vocab):
    constraint = JsonSchemaConstraint(vocab, {"type": "integer"})
    one, letter = tokens_of(vocab, "1a")
    for wrong in (letter, min(vocab.eog_tokens), -1, vocab.n_tokens):
        with pytest.raises(GrammarError, match=f"token {wrong} "):
            constraint.accept(wrong)
    constraint.accept(one)


def test_clones_go_separate_ways_and_reset_goes_back(vocab):
    constraint = JsonSchemaConstraint(vocab, {"enum": ["ab", "cd"]})
    quote, a, c = tokens_of(vocab, '"ac')
    constraint.accept(quote)
    clone = constraint.clone()
    constraint.accept(a)
    clone.accept(c)
    assert not constraint.allows(c)
    constraint.reset()
    assert constraint.allows(quote) and not constraint.allows(a)


def test_a_samplers_clone_goes_on_alike_under_a_schema(vocab):
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
def test_a_schema_that_cannot_be_used_is_an_error_with_the_reason(vocab, schema, reason):
    with pytest.raises(GrammarError, match=reason):
        JsonSchemaConstraint(vocab, schema)


def test_a_vocabulary_is_prepared_once_and_not_kept_alive(tiny_model_path):
    from pytreellama import Model
    from pytreellama.core import schema

    model = Model(tiny_model_path("rope"))
    constraint = JsonSchemaConstraint(model.vocab, {"type": "null"})
    assert schema._tokenizer(model.vocab) is schema._tokenizer(model.vocab)
    vocab = weakref.ref(model.vocab)
    del constraint, model
    gc.collect()
    assert vocab() is None
