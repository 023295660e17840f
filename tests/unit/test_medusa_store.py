"""What a model wrote, on disk: parts stay, an interruption loses one at most, damage is told."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from pytreellama.errors import MedusaError
from pytreellama.medusa.store import Store, Texts
from pytreellama.training.text import Text

FACTS = {"model": "abc", "seed": 1, "share_free": 0.3, "prompts": None}
N_EMBD = 8


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "texts" / "of a model"


def some_text(n: int, seed: int = 0) -> Text:
    random = np.random.default_rng(seed)
    states = random.normal(size=(n, N_EMBD)).astype(np.float16)
    return Text(random.integers(0, 300, n).astype(np.int32), states)


def some_texts(*lengths: int) -> Texts:
    tokens = np.arange(sum(lengths), dtype=np.int32)
    states = np.zeros((len(tokens), N_EMBD), np.float16)
    return Texts(tokens, states, np.cumsum(lengths))


def two_parts(folder: Path) -> list[Text]:
    texts = [some_text(n, seed) for seed, n in enumerate((5, 1, 9))]
    store = Store(folder, FACTS)
    store.add_texts(texts[:2], 1.5)
    store.add_texts(texts[2:], 2.0)
    return texts


# -- parts


def test_a_new_store_is_empty(folder: Path) -> None:
    store = Store(folder, FACTS)
    assert (store.n_parts, store.n_tokens, store.seconds) == (0, 0, 0.0)
    with pytest.raises(MedusaError, match="holds no texts yet"):
        store.load()


def test_parts_survive(folder: Path) -> None:
    texts = two_parts(folder)
    store = Store(folder, FACTS)
    loaded = store.load()
    assert (store.n_parts, store.n_tokens, store.seconds) == (2, 15, 3.5)
    assert loaded.ends.tolist() == [5, 6, 15]
    assert np.array_equal(loaded.tokens, np.concatenate([text.tokens for text in texts]))
    assert np.array_equal(loaded.states, np.concatenate([text.states for text in texts]))
    assert (loaded.tokens.dtype, loaded.states.dtype) == (np.int32, np.float16)


def test_what_is_added_later_counts_with_what_is_there(folder: Path) -> None:
    two_parts(folder)
    Store(folder, FACTS).add_texts([some_text(4)], 0.5)
    store = Store(folder, FACTS)
    assert (store.n_parts, store.n_tokens, store.seconds) == (3, 19, 4.0)
    assert store.load().ends.tolist() == [5, 6, 15, 19]


def test_a_half_written_part_is_not_counted_and_is_written_over(folder: Path) -> None:
    texts = two_parts(folder)
    (folder / "00001.json").unlink()
    (folder / "00001-states.npyk2j3").write_bytes(b"the rest was never written")
    store = Store(folder, FACTS)
    assert (store.n_parts, store.n_tokens) == (1, 6)
    assert store.load().ends.tolist() == [5, 6]
    store.add_texts([some_text(2, seed=7)], 1.0)
    tokens = np.concatenate([*(text.tokens for text in texts[:2]), some_text(2, seed=7).tokens])
    assert np.array_equal(store.load().tokens, tokens)


def test_a_part_that_cannot_be_written_leaves_the_others(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    two_parts(folder)
    store = Store(folder, FACTS)

    def full(file: object, array: np.ndarray) -> None:
        raise OSError("no space left on device")

    before = sorted(path.name for path in folder.iterdir())
    with monkeypatch.context() as patch:
        patch.setattr(np, "save", full)
        with pytest.raises(OSError, match="no space"):
            store.add_texts([some_text(3)], 1.0)
    assert sorted(path.name for path in folder.iterdir()) == before
    assert store.n_parts == 2


@pytest.mark.parametrize("other", [{"model": "xyz"}, {"seed": 2}, {"prompts": "0123"}])
def test_other_facts_are_refused(folder: Path, other: dict[str, Any]) -> None:
    two_parts(folder)
    with pytest.raises(MedusaError, match="another model, or written with other options; give"):
        Store(folder, FACTS | other)
    assert Store(folder, FACTS).n_parts == 2


# -- damage


@pytest.mark.parametrize("name", ["tokens", "states", "lengths"])
@pytest.mark.parametrize("n_bytes", [0, 5, 100, -1])
def test_a_part_that_is_cut_is_told_of(folder: Path, name: str, n_bytes: int) -> None:
    two_parts(folder)
    path = folder / f"00001-{name}.npy"
    path.write_bytes(path.read_bytes()[:n_bytes])
    with pytest.raises(MedusaError, match=rf"00001-{name}\.npy is missing or damaged"):
        Store(folder, FACTS).load()


@pytest.mark.parametrize("content", [b"PK\x03\x04 no archive", b"\x80\x04 no pickle", b"text"])
def test_a_part_of_other_bytes_is_told_of(folder: Path, content: bytes) -> None:
    two_parts(folder)
    (folder / "00000-tokens.npy").write_bytes(content)
    with pytest.raises(MedusaError, match=r"00000-tokens\.npy is missing or damaged"):
        Store(folder, FACTS).load()


def test_a_part_without_its_states_is_told_of(folder: Path) -> None:
    two_parts(folder)
    (folder / "00000-states.npy").unlink()
    with pytest.raises(MedusaError, match=r"00000-states\.npy is missing or damaged"):
        Store(folder, FACTS).load()


@pytest.mark.parametrize("name", ["tokens", "states", "lengths"])
def test_arrays_of_one_part_that_do_not_fit_are_told_of(folder: Path, name: str) -> None:
    two_parts(folder)
    (folder / f"00000-{name}.npy").write_bytes((folder / f"00001-{name}.npy").read_bytes())
    with pytest.raises(MedusaError, match=r"00000 of .* is damaged"):
        Store(folder, FACTS).load()


@pytest.mark.parametrize("content", ["", "{", "[]", "{}", "\x00"])
def test_damaged_facts_of_a_part_are_told_of(folder: Path, content: str) -> None:
    two_parts(folder)
    (folder / "00001.json").write_text(content, encoding="utf-8")
    with pytest.raises(MedusaError, match=r"00001\.json is missing or damaged"):
        _ = Store(folder, FACTS).n_tokens


@pytest.mark.parametrize("content", [b"", b"{", b"\xff\xfe"])
def test_damaged_facts_of_a_folder_are_told_of(folder: Path, content: bytes) -> None:
    two_parts(folder)
    (folder / "facts.json").write_bytes(content)
    with pytest.raises(MedusaError, match=r"facts\.json is missing or damaged"):
        Store(folder, FACTS)


# -- places to learn from


LENGTHS = [(7 * i) % 13 for i in range(50)]


@pytest.mark.parametrize("n_ahead", [1, 3, 12])
@pytest.mark.parametrize("held_out", [False, True])
def test_positions_never_cross_texts(n_ahead: int, held_out: bool) -> None:
    texts = some_texts(*LENGTHS)
    text_of = np.repeat(np.arange(len(LENGTHS)), LENGTHS)
    places = texts.positions(n_ahead, held_out)
    assert np.array_equal(text_of[places], text_of[places + n_ahead])


@pytest.mark.parametrize("n_ahead", [1, 3, 12])
def test_every_place_with_enough_ahead_is_held_out_or_learned_from(n_ahead: int) -> None:
    texts = some_texts(*LENGTHS)
    text_of = np.repeat(np.arange(len(LENGTHS)), LENGTHS)
    learned = texts.positions(n_ahead, held_out=False)
    held_out = texts.positions(n_ahead, held_out=True)
    assert not set(text_of[learned]) & set(text_of[held_out])
    together = np.concatenate([learned, held_out])
    assert len(set(together.tolist())) == len(together)
    assert len(together) == sum(max(n - n_ahead, 0) for n in LENGTHS)


def test_one_text_in_twenty_is_held_out() -> None:
    texts = some_texts(*[2] * 100)
    assert texts.positions(1, held_out=True).tolist() == [0, 40, 80, 120, 160]
    assert len(texts.positions(1, held_out=False)) == 95


def test_texts_held_out_stay_so_when_more_is_written(folder: Path) -> None:
    store = Store(folder, FACTS)
    store.add_texts([some_text(5) for _ in range(30)], 1.0)
    before = store.load().positions(2, held_out=True)
    store.add_texts([some_text(5) for _ in range(30)], 1.0)
    after = store.load().positions(2, held_out=True)
    assert after[: len(before)].tolist() == before.tolist()
    assert len(after) == 9


def test_one_text_alone_is_held_out() -> None:
    texts = some_texts(6)
    assert texts.positions(2, held_out=True).tolist() == [0, 1, 2, 3]
    assert texts.positions(2, held_out=False).tolist() == []
