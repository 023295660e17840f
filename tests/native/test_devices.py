"""Where models and caches are put: what is refused, what counts as the same, what GPUs can do."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import numpy as np
import pytest

from backends import ON_DEVICE
from pytreellama import Context, ContextParams, Engine, Model, TokenTree
from pytreellama.cli.placement_flags import PlacementFlags
from pytreellama.context import memory_check
from pytreellama.engine import known_costs
from pytreellama.errors import ContextError, ModelLoadError, RequestError
from pytreellama.model.placement import Placement
from pytreellama.native.system import Device
from pytreellama.system import cpu_features, devices, has_invariant_products

TinyModel = Callable[..., Model]
TinyPath = Callable[..., Path]

TEXT = [10, 20, 30, 40, 50]
GIB = 2**30

on_device = pytest.mark.skipif(
    not ON_DEVICE, reason="needs a device: PYTREELLAMA_TEST_BACKEND=vulkan, cuda or metal"
)
cannot_on_device = pytest.mark.skipif(ON_DEVICE, reason="of a build or machine without a device")


def logits_of(model: Model) -> np.ndarray:
    with Context(model, n_ctx=64, n_threads=1) as context:
        context.prefill(TEXT, logits=True)
        return context.outputs.logits.copy()


# -- placement


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"n_gpu_layers": -2}, r"invalid n_gpu_layers=-2: expected -1 \(all\) or more"),
        ({"n_gpu_layers": 1.5}, "invalid n_gpu_layers=1.5"),
        ({"n_gpu_layers": True}, "invalid n_gpu_layers=True"),
        ({"main_gpu": -1}, "invalid main_gpu=-1: expected the index of a GPU"),
        ({"n_cpu_moe": -1}, "invalid n_cpu_moe=-1: expected a number of layers"),
        ({"split_mode": "rows"}, "invalid split_mode='rows': expected one of none, layer, row"),
        ({"devices": ["GPU7"]}, "invalid devices='GPU7': this build sees"),
        ({"devices": "CPU"}, "invalid devices='CPU': this build sees"),
        ({"tensor_split": [-1.0]}, "invalid tensor_split=.*expected at most"),
        ({"tensor_split": [float("nan")]}, "invalid tensor_split"),
        ({"tensor_split": [1.0] * 1000}, "invalid tensor_split"),
        ({"tensor_overrides": {"ffn": "GPU7"}}, "invalid tensor_overrides.*'GPU7'.*CPU"),
        ({"tensor_overrides": {"ffn(": "CPU"}}, "invalid tensor_overrides pattern 'ffn\\('"),
    ],
)
def test_placements_out_of_range_are_refused(
    tiny_model_path: TinyPath, options: dict[str, Any], message: str
) -> None:
    with pytest.raises(ModelLoadError, match=message):
        Model(tiny_model_path("rope"), **options)


def test_names_of_devices_are_a_list_or_one_text(tiny_model_path: TinyPath) -> None:
    spellings: tuple[str | list[str], ...] = ("none", [])
    for none in spellings:
        with Model(tiny_model_path("rope"), devices=none) as model:
            assert model.placement.devices == ()
            assert model.devices == ()


def test_experts_on_the_cpu_are_overrides_of_their_layers() -> None:
    placed = Placement(tensor_overrides=(("ffn_up", "CPU"),), n_cpu_moe=2)
    first, *experts = placed.all_overrides
    assert first == ("ffn_up", "CPU")
    assert [pattern.startswith(f"blk\\.{i}\\.ffn") for i, (pattern, _) in enumerate(experts)] == [
        True,
        True,
    ]
    assert len(Placement(n_cpu_moe=10**6).all_overrides) == 512


@pytest.mark.parametrize(
    "options",
    [
        {"tensor_overrides": {r"blk\.0\.": "CPU", "output": "CPU"}},
        {"tensor_overrides": [("ffn_.*", "CPU")], "tensor_split": [3, 1]},
        {"n_cpu_moe": 1},
        {"n_cpu_moe": 99, "split_mode": "none"},
        {"n_gpu_layers": 1},
    ],
    ids=str,
)
def test_logits_do_not_depend_on_where_weights_are(
    tiny_model: TinyModel, tiny_model_path: TinyPath, options: dict[str, Any]
) -> None:
    expected = logits_of(tiny_model("moe"))
    with Model(tiny_model_path("moe"), **options) as model:
        found = logits_of(model)
    np.testing.assert_allclose(found, expected, atol=3e-2 if ON_DEVICE else 0.0)


def test_without_layers_on_a_gpu_a_build_for_it_is_as_exact_as_one_for_the_cpu(
    tiny_model_path: TinyPath,
) -> None:
    """No GPU takes part then: also not in the products of long passes."""
    with Model(tiny_model_path("rope"), n_gpu_layers=0) as model, Context(model) as context:
        assert model.devices == context.devices == ()
        assert context.is_batch_invariant == has_invariant_products(cpu_features())
    with Model(tiny_model_path("qwen35"), n_gpu_layers=0) as model, Context(model) as context:
        assert context.draft_shape == "trees"


# -- the command line


def test_the_command_line_says_what_the_library_takes() -> None:
    flags = PlacementFlags(
        n_gpu_layers=7,
        devices="none",
        main_gpu=1,
        split_mode="row",
        tensor_split="3,1.5",
        override_tensor=["a=b=CPU", "c=CPU,d=CPU"],
        n_cpu_moe=2,
    )
    assert flags.model_options() == {
        "n_gpu_layers": 7,
        "devices": "none",
        "main_gpu": 1,
        "split_mode": "row",
        "tensor_split": [3.0, 1.5],
        "tensor_overrides": [("a=b", "CPU"), ("c", "CPU"), ("d", "CPU")],
        "n_cpu_moe": 2,
    }


def test_options_that_are_left_out_leave_the_library_default(tiny_model: TinyModel) -> None:
    with Model(tiny_model("rope").path, **PlacementFlags().model_options()) as model:
        assert model.placement == Placement() == tiny_model("rope").placement


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"tensor_split": "3;1"}, "invalid --tensor-split 3;1: expected numbers"),
        ({"override_tensor": ["ffn"]}, "invalid --override-tensor ffn: expected PATTERN=BUFFER"),
    ],
)
def test_options_that_cannot_be_read_are_told(options: dict[str, Any], message: str) -> None:
    with pytest.raises(RequestError, match=message):
        PlacementFlags(**options).model_options()


# -- what is kept of costs


def test_costs_are_kept_by_placement_and_kernel_switches(
    tiny_model_path: TinyPath, monkeypatch: pytest.MonkeyPatch
) -> None:
    def path(**options: Any) -> Path:
        with Model(tiny_model_path("rope"), **options) as model, Context(model) as context:
            return known_costs._path(context)

    usual = path()
    assert path() == usual
    others = {path(n_gpu_layers=0), path(n_cpu_moe=1), path(tensor_overrides={"ffn": "CPU"})}
    assert len(others) == 3
    assert usual not in others
    monkeypatch.setenv("GGML_CUDA_DISABLE_GRAPHS", "1")
    assert path() != usual


# -- memory


def fake_model(**sizes: int) -> Model:
    """A model whose layers are on GPUs of these sizes."""
    gpus = tuple(Device(name, name, "gpu", size, 2 * size) for name, size in sizes.items())
    fake = SimpleNamespace(
        devices=gpus,
        handle=None,
        is_recurrent=False,
        n_layer=4,
        n_ctx_train=4096,
        placement=Placement(),
    )
    return cast(Model, fake)


@pytest.fixture
def cache_of_8_gib(monkeypatch: pytest.MonkeyPatch) -> None:
    """Half of it is on GPU0, a quarter on GPU1; the rest is in the host's memory."""

    def kv_bytes(*_: Any, device: str | None = None, **__: Any) -> int:
        return {None: 8, "GPU0": 4, "GPU1": 2, "CPU": 2}[device] * GIB

    monkeypatch.setattr(memory_check, "kv_bytes", kv_bytes)
    monkeypatch.setattr(memory_check, "_host_available", lambda: 7 * GIB)


@pytest.mark.usefixtures("cache_of_8_gib")
def test_each_device_must_hold_its_part_of_a_cache() -> None:
    params = ContextParams(n_ctx=1024)
    memory_check.require_memory_for(fake_model(GPU0=5 * GIB, GPU1=3 * GIB), params)
    with pytest.raises(ContextError, match=r"4\.0 GiB .* cache on GPU0, 1\.0 .* about 230"):
        memory_check.require_memory_for(fake_model(GPU0=GIB, GPU1=3 * GIB), params)
    with pytest.raises(ContextError, match=r"2\.0 GiB .* cache on GPU1, 1\.0 GiB"):
        memory_check.require_memory_for(fake_model(GPU0=5 * GIB, GPU1=GIB), params)
    unknown = replace(fake_model(GPU0=GIB).devices[0], total=0)  # a backend that does not say
    silent = fake_model()
    silent.devices = (unknown,)  # type: ignore[misc]
    memory_check.require_memory_for(silent, params)


@pytest.mark.usefixtures("cache_of_8_gib")
def test_a_cache_in_the_hosts_memory_is_checked_whatever_the_build_sees() -> None:
    for model, params in (
        (fake_model(), ContextParams(n_ctx=1024)),
        (fake_model(GPU0=100 * GIB), ContextParams(n_ctx=1024, offload_kv=False)),
    ):
        with pytest.raises(ContextError, match=r"8\.0 GiB for the KV cache, 7\.0 GiB"):
            memory_check.require_memory_for(model, params)


@on_device
def test_a_cache_beyond_a_devices_memory_is_refused(tiny_model: TinyModel) -> None:
    name = tiny_model("rope").devices[0].name
    with pytest.raises(ContextError, match=f"GiB for the KV cache on {name}, .* are available"):
        Context(tiny_model("rope"), n_ctx=2**31 - 1)


# -- on a device


@on_device
def test_a_model_tells_its_devices(tiny_model: TinyModel, tiny_model_path: TinyPath) -> None:
    (first, *_) = tiny_model("rope").devices
    assert first.name in {device.name for device in devices() if device.kind != "cpu"}
    with Model(tiny_model_path("rope"), devices=[first.name], split_mode="none") as model:
        assert [device.name for device in model.devices] == [first.name]
    with pytest.raises(ModelLoadError, match="main_gpu"):
        Model(tiny_model_path("rope"), split_mode="none", main_gpu=99)


@on_device
@pytest.mark.parametrize("kind", ["recurrent", "hybrid", "qwen35", "lfm2", "rwkv7"])
def test_trees_of_recurrent_states_are_left_to_the_cpu(tiny_model: TinyModel, kind: str) -> None:
    """Also where the states are in the host's memory: a scheduler gives a device what it can."""
    for offload in (True, False):
        with Context(tiny_model(kind), n_ctx=256, offload_kv=offload) as context:
            assert not context.can_branch
            assert context.draft_shape in ("chains", "plain")


# what turning keys and rounding them again may move logits by, measured on the CPU and doubled
TURNED = {"f16": 0.02, "bf16": 0.05, "q8_0": 0.1, "q5_1": 0.6, "iq4_nl": 1.5, "q4_0": 2.5}


@on_device
@pytest.mark.parametrize("type_kv", TURNED)
def test_a_cache_type_works_or_is_refused_with_what_to_do(
    tiny_model: TinyModel, type_kv: Any
) -> None:
    """Committed text is text, and RoPE knows distances alone when positions are moved."""
    model, options = tiny_model("rope"), {"n_ctx": 256, "type_k": type_kv, "type_v": type_kv}
    try:
        context = Context(model, **options)
    except ContextError as error:
        assert "use f16 or q8_0 for both" in str(error)
        return
    with context, Context(model, **options) as fresh:
        fresh.prefill([*TEXT, 5, 6, 7], 0)
        expected = fresh.decode(11, seq=0).logits.copy()
        context.prefill(TEXT, 0)
        context.decode(TokenTree.from_parents([5, 9, 6, 8, 7], [-1, -1, 0, 0, 2]), seq=0)
        context.commit(0, [0, 2, 4])
        np.testing.assert_allclose(context.decode(11, seq=0).logits, expected, atol=0.1)
        # Mesa's software device crashes in its own threads there, in half of the runs: docs/gpu.md
        crashes = "llvmpipe" in model.devices[0].description
        if context.memory.can_shift and not crashes:
            context.memory.rm(0, len(TEXT) + 3)
            context.memory.add(0, 0, -1, 9)
            moved = context.decode(11, seq=0).logits
            np.testing.assert_allclose(moved, expected, atol=TURNED[type_kv])


@on_device
@pytest.mark.parametrize("drafter", ["suffix", "recycling"])
def test_text_on_a_device_is_plain_text(tiny_model: TinyModel, drafter: str) -> None:
    texts = []
    for name in ("none", drafter):
        with Engine(tiny_model("rope"), name, n_ctx=256) as engine:
            texts.append(engine.generate(TEXT, max_tokens=48, ignore_eos=True).tokens)
    assert texts[0] == texts[1]
