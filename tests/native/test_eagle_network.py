"""The network that trains an EAGLE-3 head computes what llama.cpp's ``eagle3`` graph computes."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from pytreellama import Context, Model
from pytreellama.context.draft_context import DraftContext, Piece
from pytreellama.eagle.features import FeatureReader, Lesson, head_layers
from pytreellama.eagle.head_file import HeadFile
from pytreellama.eagle.lesson_batch import LessonBatch
from pytreellama.eagle.network import HeadShape, Network
from pytreellama.training.target import Target

_HOW = "pip install 'pytreellama[train]'"
pytest.importorskip("gguf", reason=f"needs gguf: {_HOW}")
torch: Any = pytest.importorskip("torch", reason=f"needs PyTorch: {_HOW}")

Float32 = NDArray[np.float32]

N_EMBD = 384  # six heads, two of keys: groups, and more than one of them
N_UNROLL = 4
SHORTLIST = np.arange(7, 300, 3, dtype=np.int32)
LENGTHS = ((1, 9), (6, 5), (17, 2))  # of prompts and answers


@pytest.fixture(scope="module")
def target(tiny_model: Callable[..., Model]) -> Model:
    return tiny_model("rope", n_embd=N_EMBD)


@pytest.fixture(scope="module")
def lessons(target: Model) -> list[Lesson]:
    random = np.random.default_rng(3)
    reader = FeatureReader(target, head_layers(target.n_layer), n_ctx=64)
    texts = [
        tuple(random.integers(5, 300, n).astype(np.int32) for n in lengths) for lengths in LENGTHS
    ]
    read = [reader.read(*text) for text in texts]
    reader.close()
    return read


@dataclass(frozen=True)
class Head:
    """A head of random weights, in a file and as a network."""

    path: Path
    network: Network
    output: Float32


@pytest.fixture(scope="module")
def head(target: Model, tmp_path_factory: pytest.TempPathFactory) -> Head:
    shape = HeadShape(N_EMBD, 256, rope_base=5000.0)
    random = np.random.default_rng(5)
    arrays = {
        name: _random(random, size)
        for name, size in (shape.sizes() | {"output": (len(SHORTLIST), N_EMBD)}).items()
    }
    path = tmp_path_factory.mktemp("head") / "head.gguf"
    layers = head_layers(target.n_layer)
    HeadFile(shape, arrays, SHORTLIST, layers).write(path, Target(target), "f32")
    parameters = {name: torch.from_numpy(array) for name, array in arrays.items()}
    return Head(path, Network(torch, shape, parameters), arrays["output"])


def _random(random: np.random.Generator, size: tuple[int, ...]) -> Float32:
    around = 1.0 if len(size) == 1 else 0.0
    spread = 0.2 if len(size) == 1 else size[-1] ** -0.5
    return (around + spread * random.normal(size=size)).astype(np.float32)


@pytest.fixture
def draft(target: Model, head: Head) -> Iterator[DraftContext]:
    with Model(head.path) as model, Context(target, n_ctx=128, n_seq_max=2, n_threads=1) as context:
        context.outputs.keep_features(model.target_layers)
        with DraftContext(model, context, n_seq_max=2, is_mtp=False) as draft:
            yield draft


def unrolled(head: Head, target: Model, lessons: list[Lesson]) -> tuple[LessonBatch, list[Float32]]:
    """Logits of a batch by step of the training-time test."""
    batch = LessonBatch(torch, lessons)
    embeddings = torch.from_numpy(Target(target).embedding_rows())[batch.tokens]
    states = head.network.unrolled(batch, batch.features.float(), embeddings, N_UNROLL)
    return batch, [one.numpy() @ head.output.T for one in states]


def drafted(draft: DraftContext, lesson: Lesson, n_read: int, n_nodes: int) -> Float32:
    """Logits of the last cell read with features, and of a chain of nodes below it."""
    tokens = np.concatenate([lesson.prompt, lesson.answer])[1:-1]
    states = draft.encode(lesson.features[:n_read].astype(np.float32))
    seq = draft.sequences.new()
    found = []
    piece = Piece(seq, tokens[:n_read], states)
    for node in range(n_nodes + 1):
        (rows,) = draft.decode([piece])
        found.append(np.array(draft.outputs.logits[rows][-1][SHORTLIST]))
        at = n_read + node
        parents = np.array([node - 1], np.int32)
        piece = Piece(seq, tokens[at : at + 1], draft.states()[-1:], parents)
    draft.discard(seq)
    draft.sequences.free(seq)
    return np.array(found)


def test_every_unrolled_step_is_what_a_draft_node_of_its_depth_computes(
    target: Model, head: Head, lessons: list[Lesson], draft: DraftContext
) -> None:
    batch, logits = unrolled(head, target, lessons)
    n_compared = 0
    for text, lesson in enumerate(lessons):
        n_prompt, n_answer = len(lesson.prompt) - 1, len(lesson.answer) - 1
        for cell in range(n_answer):
            n_steps = min(N_UNROLL, n_answer - cell)
            expected = drafted(draft, lesson, n_prompt + cell + 1, n_steps - 1)
            for step in range(n_steps):
                place = text * batch.sizes[1] + cell + step
                row = batch.answer_place(step).tolist().index(place)
                np.testing.assert_allclose(logits[step][row], expected[step], atol=2e-3)
                n_compared += 1
    assert n_compared == sum(len(one) for one in logits) == 37


def test_a_text_is_the_same_beside_others_and_alone(
    target: Model, head: Head, lessons: list[Lesson]
) -> None:
    _, together = unrolled(head, target, lessons)
    alone = [unrolled(head, target, [lesson])[1] for lesson in lessons]
    for step, logits in enumerate(together):
        expected = np.concatenate([one[step] for one in alone])
        np.testing.assert_allclose(logits, expected, atol=1e-4)


def test_features_and_states_are_those_of_decoding_token_by_token(target: Model) -> None:
    random = np.random.default_rng(4)
    prompt, answer = (random.integers(5, 300, n).astype(np.int32) for n in (5, 6))
    layers = head_layers(target.n_layer)
    reader = FeatureReader(target, layers, n_ctx=64)
    lesson = reader.read(prompt, answer)
    reader.close()
    with Context(target, n_ctx=64, n_threads=1) as context:
        context.outputs.keep_features(layers)
        context.outputs.keep_hidden()
        seq = context.sequences.new()
        features, states = [], []
        for token in [*prompt, *answer[:-1]]:
            outputs = context.decode(int(token), seq=seq)
            features.append(outputs.features([0], layers)[0])
            states.append(outputs.hidden([0])[0])
    np.testing.assert_allclose(lesson.features, features, atol=0.02, rtol=0.01)
    np.testing.assert_allclose(lesson.states, states[len(prompt) - 1 :], atol=0.02, rtol=0.01)


def test_a_text_longer_than_a_pass_is_read_in_passes(
    target: Model, monkeypatch: pytest.MonkeyPatch
) -> None:
    random = np.random.default_rng(6)
    prompt, answer = (random.integers(5, 300, n).astype(np.int32) for n in (9, 14))
    read = []
    for n_batch in (512, 8):
        monkeypatch.setattr("pytreellama.eagle.features._N_BATCH", n_batch)
        reader = FeatureReader(target, head_layers(target.n_layer), n_ctx=64)
        read.append(reader.read(prompt, answer))
        reader.close()
    whole, pieces = read
    np.testing.assert_allclose(pieces.features, whole.features, atol=0.02)
    np.testing.assert_allclose(pieces.states, whole.states, atol=0.02)
    assert whole.features.shape == (22, 3 * N_EMBD) and whole.states.shape == (14, N_EMBD)


def test_layers_of_a_new_head_are_an_early_a_middle_and_a_late_one() -> None:
    assert [head_layers(n) for n in (1, 2, 4, 30)] == [(0, 0, 0), (1, 1, 1), (2, 2, 2), (2, 15, 27)]
