"""Files of drafts that models carry: which fit, which are found, which are loaded."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from gguf import GGUFReader

import tiny_models
from carried_drafts import agreeing
from pytreellama import Engine, Model
from pytreellama.context.native_context import NativeContext
from pytreellama.draft import MTP, Auto, Eagle3, Suffix, drafter_factory, uses_mtp
from pytreellama.errors import DraftError
from tiny_architectures import heads

Paths = Callable[..., Path]

PROMPTS = [[1, *(261 + i * k % 59 for i in range(8 + 5 * k))] for k in range(1, 5)]
N_TOKENS = 32


@pytest.fixture(scope="module")
def agreeing_path(tiny_model_path: Paths, model_directory: Path) -> Path:
    """A model whose NextN layers are right at about half of the steps."""
    to = model_directory / "deepseek2-mtp-agreeing.gguf"
    return to if to.exists() else agreeing(tiny_model_path("deepseek2-mtp"), to, gain=0.2)


def run(model: Model, drafter: Any, *, max_tokens: int = N_TOKENS) -> list[tuple[int, ...]]:
    with Engine(model, drafter, n_ctx=2048, n_threads=1, n_seq_max=4) as engine:
        completions = engine.generate(PROMPTS, max_tokens=max_tokens, ignore_eos=True)
        return [completion.tokens for completion in completions]


# -- what does not fit


def refused(model: Model, drafter: Any, match: str) -> None:
    with pytest.raises(DraftError, match=match):
        Engine(model, drafter, n_ctx=256, n_threads=1)


def test_a_model_without_nextn_layers_is_refused(tiny_model: Callable[..., Model]) -> None:
    refused(tiny_model("rope"), "mtp", "no llama.nextn_predict_layers in its metadata")


def test_nextn_layers_that_were_not_loaded_are_asked_for(
    tiny_model: Callable[..., Model],
) -> None:
    refused(tiny_model("qwen35-mtp"), MTP(), "load_mtp=True")


def test_several_nextn_layers_are_refused_where_the_graph_takes_one(
    tiny_model_path: Paths,
) -> None:
    with Model(tiny_model_path("glm4moe-mtp2"), load_mtp=True) as model:
        refused(model, "mtp", "cannot run")


def test_eagle3_files_of_other_targets_are_refused(
    tiny_model: Callable[..., Model],
    tiny_model_path: Paths,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    head = tiny_model_path("eagle3")
    refused(tiny_model("rope", n_embd=128), Eagle3(head), "64 numbers .* have 128")
    refused(tiny_model("rope", n_layer=1), Eagle3(head), r"does not offer .*\[0, 1, 1\]")
    monkeypatch.setattr(heads, "TARGET_LAYERS", (0, 1, 7))
    other = tiny_models.tiny_model("eagle3", tmp_path)
    refused(tiny_model("rope"), Eagle3(other), r"\[0, 1, 7\] .*layers 0 to 1")
    refused(
        tiny_model("rope", n_vocab=400),
        Eagle3(tiny_model_path("eagle3")),
        "vocabulary of 320 tokens",
    )
    refused(tiny_model("rope"), Eagle3(tiny_model_path("swa")), "architecture")
    refused(tiny_model("rope"), Eagle3(tmp_path / "missing.gguf"), "there is no EAGLE-3 file")
    refused(tiny_model("rope"), "eagle3", r"no EAGLE-3 file .*rope\.eagle3\.gguf .* eagle3=FILE")
    (tmp_path / "broken.gguf").write_bytes(b"GGUF")
    refused(tiny_model("rope"), f"eagle3={tmp_path / 'broken.gguf'}", "can be loaded")
    refused(tiny_model("recurrent"), Eagle3(head), "cannot be run|numbers|layers")


def test_tables_of_tokens_that_the_target_lacks_are_refused(
    tiny_model: Callable[..., Model], tiny_model_path: Paths, tmp_path: Path
) -> None:
    for token in (-1, 320, 2**40):
        path = tmp_path / "head.gguf"
        shutil.copy(tiny_model_path("eagle3-d2t"), path)
        (d2t,) = (tensor for tensor in GGUFReader(path, "r+").tensors if tensor.name == "d2t")
        d2t.data[7] = token
        refused(tiny_model("rope"), Eagle3(path), f"names token {token} of a vocabulary of 320")


def test_a_vocabulary_of_the_drafts_own_limits_what_is_drafted(
    tiny_model: Callable[..., Model], tiny_model_path: Paths
) -> None:
    drafted: set[int] = set()
    factory = Eagle3(tiny_model_path("eagle3-d2t"), min_p=0.0)
    with Engine(tiny_model("rope"), factory, n_ctx=512, n_threads=1) as engine:
        engine.submit(
            PROMPTS[0],
            max_tokens=N_TOKENS,
            ignore_eos=True,
            on_step=lambda step: drafted.update(step.tree.tokens[1:].tolist()),
        ).result()
    assert len(drafted) > 10
    assert drafted <= set(range(5, 320, heads.DRAFT_TOKEN_STEP))


# -- by itself


def test_auto_drafts_with_nextn_layers_that_were_loaded(agreeing_path: Path) -> None:
    with (
        Model(agreeing_path) as without,
        Model(agreeing_path, load_mtp=True) as model,
    ):
        plain = run(without, "none", max_tokens=60)
        for loaded, names in ((without, 2), (model, 3)):
            with Engine(loaded, "auto", n_ctx=2048, n_threads=1, n_seq_max=4) as engine:
                completions = engine.generate(PROMPTS[:4], max_tokens=60, ignore_eos=True)
                assert [completion.tokens for completion in completions] == plain
                assert isinstance(engine.drafter, Auto)
                assert engine.drafter.n_drafters == names
                assert engine.drafter_budget is not None
                n_asked = [int(known["n_asked"]) for known in engine.drafter_budget.to_dicts()]
                assert len(n_asked) == names
                assert n_asked[-1] > 0


def test_auto_drafts_with_the_eagle3_file_next_to_the_model(
    tiny_model_path: Paths, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    shutil.copy(tiny_model_path("rope"), tmp_path / "model.gguf")
    shutil.copy(tiny_model_path("eagle3"), tmp_path / "model.eagle3.gguf")
    with Model(tmp_path / "model.gguf") as model:
        with Engine(model, "auto", n_ctx=512, n_threads=1) as engine:
            assert isinstance(engine.drafter, Auto)
            assert engine.drafter().names == ("suffix", "recycling", "eagle3")
        shutil.copy(tiny_model_path("swa"), tmp_path / "model.eagle3.gguf")
        with Engine(model, "auto", n_ctx=512, n_threads=1) as engine:
            assert isinstance(engine.drafter, Auto)
            assert engine.drafter.n_drafters == 2
    assert "are left out" in caplog.text


def test_drafts_that_cannot_be_run_are_left_out_of_auto(
    tiny_model: Callable[..., Model],
    tiny_model_path: Paths,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    refusal = property(lambda self: None if self.n_seq_max == 1 else "it has no room")
    monkeypatch.setattr(NativeContext, "tree_refusal", refusal)
    with Model(tiny_model_path("deepseek2-mtp"), load_mtp=True) as model:
        refused(model, "mtp", "memory that cannot hold trees")
        with Engine(model, "auto", n_ctx=512, n_threads=1, n_seq_max=1) as engine:
            assert isinstance(engine.drafter, Auto)
            assert engine.drafter.n_drafters == 2
    assert "are left out" in caplog.text


@pytest.mark.parametrize(
    ("spec", "expected"),
    [
        ("auto", True),
        ("mtp", True),
        ("suffix+mtp", True),
        (["suffix", MTP(n_levels=2)], True),
        (Auto(Suffix(), MTP()), True),
        (Auto(Suffix(), own=True), True),
        ("suffix", False),
        ("none", False),
        (Auto(Suffix()), False),
        (Suffix, False),
    ],
    ids=str,
)
def test_a_drafter_tells_whether_nextn_layers_are_of_use(spec: Any, expected: bool) -> None:
    assert uses_mtp(spec) is expected


def test_an_engine_of_a_path_loads_what_its_drafter_needs(agreeing_path: Path) -> None:
    path = agreeing_path
    for drafter, expected in (("mtp", "loaded"), ("suffix", "not loaded")):
        with Engine(path, drafter, n_ctx=256, n_threads=1) as engine:
            assert engine.model.mtp == expected


def test_the_command_line_loads_what_the_drafter_needs(
    agreeing_path: Path, tiny_model_path: Paths
) -> None:
    from pytreellama.cli import session
    from pytreellama.cli.placement_flags import PlacementFlags

    on_cpu = PlacementFlags(n_gpu_layers=0)
    with session.load_model(agreeing_path, on_cpu, "mtp") as model:
        assert model.mtp == "loaded"
    with session.load_model(agreeing_path, on_cpu, "suffix") as model:
        assert model.mtp == "not loaded"
    factory = drafter_factory(f"suffix+eagle3={tiny_model_path('eagle3')}")
    with session.load_model(tiny_model_path("rope"), on_cpu) as model:
        assert run(model, factory) == run(model, "none")
