"""What doctor concludes follows from what it was told, and from nothing else."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pytreellama.bench.advice import Facts, advise
from pytreellama.bench.speed_check import SpeedCheck, expected_tokens


def check(*costs: float, n_threads: int = 4, plain_s: float = 0.01) -> SpeedCheck:
    """A speed check with these relative costs of 1, 2, 4... nodes."""
    sizes = [2**i for i in range(len(costs))]
    return SpeedCheck(
        n_threads=n_threads,
        n_past=64,
        median_s={n: plain_s * cost for n, cost in zip(sizes, costs, strict=True)},
        n_samples=dict.fromkeys(sizes, 5),
        n_compared=8,
        logit_difference=0.0,
    )


FREE, CHEAP, DEAR = check(1, 1, 1, 1, 1), check(1, 1.1, 1.2, 1.4, 1.8), check(1, 2, 4, 8, 16)

WELL = Facts(
    backends=("cpu",),
    gpu_devices=(),
    gpu_traces=(),
    is_native_build=True,
    n_cores=4,
    cpu_quota=None,
    load=0.1,
    memory_available=8 * 2**30,
    size=4 * 2**30,
    n_params=8 * 10**9,
    file_type="Q4_1",
    draft_shape="trees",
    weight_buffers={"CPU_Mapped": 4096.0},
    batched_types=("F16", "Q4_0"),
    speed=CHEAP,
)


def findings(**changes: Any) -> str:
    return "\n".join(advise(replace(WELL, **changes)))


def test_weights_on_a_gpu_need_no_host_memory() -> None:
    large = {"size": 80 * 2**30, "memory_available": 8 * 2**30}
    assert "80.0 GiB of the host's memory" in findings(**large)
    mostly = {"CUDA0": 79 * 1024.0, "CPU_Mapped": 1024.0}
    assert "host's memory" not in findings(**large, weight_buffers=mostly)
    half = {"CUDA0": 40 * 1024.0, "CPU_Mapped": 40 * 1024.0}
    assert "40.0 GiB of the host's memory" in findings(**large, weight_buffers=half)


def test_threads_are_no_matter_where_gpus_compute_every_layer() -> None:
    assert "--threads 4" in findings(speed=check(1, 1.1, n_threads=8))
    assert "--threads" not in findings(speed=check(1, 1.1, n_threads=8), is_on_gpu=True)


def test_a_pass_that_costs_nothing_more_pays_always() -> None:
    assert FREE.break_even(16) == pytest.approx(0.0, abs=1e-5)


def test_a_pass_that_costs_its_nodes_pays_only_if_every_guess_holds() -> None:
    assert DEAR.break_even(4) == pytest.approx(1.0, abs=1e-3)
    assert check(1, 2.5).break_even(2) is None


@given(st.floats(1.0, 3.99), st.sampled_from([4]))
def test_at_the_break_even_a_pass_brings_what_it_costs(cost: float, n_nodes: int) -> None:
    share = check(1, 1, cost).break_even(n_nodes)
    assert share is not None
    assert expected_tokens(n_nodes, share) == pytest.approx(cost, abs=1e-4)


def test_expected_tokens_are_the_root_and_the_guesses_that_hold() -> None:
    assert expected_tokens(1, 0.9) == 1.0
    assert expected_tokens(3, 0.5) == 1.75
    assert expected_tokens(5, 1.0) == 5.0


def test_the_best_size_grows_with_acceptance_and_is_one_where_nothing_pays() -> None:
    assert DEAR.best(0.9) == (1, 1.0)
    assert CHEAP.best(0.5)[0] <= CHEAP.best(0.7)[0] <= CHEAP.best(0.9)[0]
    size, gain = FREE.best(0.9)
    assert (size, gain) == (16, pytest.approx(expected_tokens(16, 0.9)))


def test_cheap_passes_get_sizes_and_dear_ones_get_none() -> None:
    size, gain = CHEAP.best(0.9)
    assert f"passes over {size} nodes are best (--n-draft {size - 1}): {gain:.2f}" in findings()
    assert "--drafter none" in findings(speed=DEAR)
    assert "--n-draft" not in findings(speed=DEAR)


def test_nothing_is_said_about_drafting_without_a_measurement() -> None:
    assert findings(speed=None) == ""


def test_a_model_whose_state_cannot_be_rolled_back_is_said_to_decode_plainly() -> None:
    assert "token by token" in findings(draft_shape="plain", speed=check(1))
    assert "--n-draft" not in findings(draft_shape="plain", speed=check(1))


@pytest.mark.parametrize("shape", ["trees", "chains", None])
def test_a_model_that_drafts_is_not_said_to_decode_plainly(shape: str | None) -> None:
    assert "token by token" not in findings(draft_shape=shape)


def test_a_gpu_that_the_build_cannot_use_is_named() -> None:
    assert "NVIDIA" in findings(gpu_traces=("NVIDIA (its driver is loaded)",))
    assert "GPU" not in findings()


def test_a_gpu_build_without_a_gpu_is_told() -> None:
    assert "no such device" in findings(backends=("cpu", "cuda"))
    used = {"backends": ("cuda",), "gpu_devices": ("CUDA0",)}
    assert "no such device" not in findings(**used)
    assert "--n-gpu-layers" in findings(**used)
    assert "--n-gpu-layers" not in findings(**used, weight_buffers={"CUDA0": 4096.0})


def test_a_build_for_any_cpu_is_told() -> None:
    assert "built for any CPU" in findings(is_native_build=False)
    assert "built for any CPU" not in findings()


def test_weights_that_do_not_fit_into_memory_are_told() -> None:
    assert "from disk" in findings(memory_available=2**30)
    assert "from disk" not in findings()


def test_more_threads_than_cores_or_quota_are_told() -> None:
    assert "--threads 4" in findings(speed=check(1, 1.1, n_threads=8))
    assert "--threads 2" in findings(cpu_quota=2.5)
    assert "--threads" not in findings(cpu_quota=4.0)


def test_a_busy_machine_is_told() -> None:
    assert "load 3.5" in findings(load=3.5)
    assert "load" not in findings(load=0.5) and "load" not in findings(load=None)


def test_dear_batches_are_blamed_on_the_type_only_if_others_are_multiplied_at_once() -> None:
    dear = check(1, 1.8, 2.5)
    assert "; Q4_0 are not: requantise" in findings(speed=dear)
    assert "requantise" not in findings(speed=CHEAP)
    for file_type in ("Q4_0", "F16", "all F16"):
        assert "although weights of type" in findings(speed=dear, file_type=file_type)
    assert "times a pass over one" not in findings(speed=dear, weight_buffers={})
    assert "times a pass over one" not in findings(speed=dear, batched_types=())


def test_wide_weights_are_told_with_the_measured_rate() -> None:
    wide = findings(size=16 * 10**9, memory_available=32 * 10**9, speed=check(1, 1.1, plain_s=0.8))
    assert "16 bits each" in wide and "20.0 GB/s" in wide and "1.9 times less" in wide
    assert "bits each" not in findings()
