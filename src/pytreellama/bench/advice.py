"""What would make a model faster on this machine, concluded from facts and measurements alone."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field

from pytreellama.bench.speed_check import ACCEPTANCES, SpeedCheck
from pytreellama.units import gibibytes

_HIGH_ACCEPTANCE = max(ACCEPTANCES)
_MIN_SPEEDUP = 1.05
_COSTLY_BATCH = 2.0
_BUSY_SHARE = 0.5
_WIDE_WEIGHTS_BITS = 12.0
_REARRANGED = ("CPU_REPACK", "AMX")


@dataclass(frozen=True, slots=True)
class Facts:
    """What the advice is concluded from. Sizes in bytes.

    Attributes:
        backends: what was built: "cpu", "cuda"...
        gpu_devices: GPUs that the build sees.
        gpu_traces: signs of GPUs on this machine, whatever was built.
        is_on_gpu: do GPUs compute every layer?
        is_native_build: are the kernels made for this very CPU?
        n_cores: physical cores, if known.
        cpu_quota: cores' worth of time that a container may use, if limited.
        load: processes that wanted a core in the last minute, before the check.
        memory_available: for this process.
        size: of all weights.
        n_params: number of weights.
        file_type: the quantisation, as llama.cpp names it.
        draft_shape: what an engine drafts: "trees", "chains" or "plain"; None if unknown.
        weight_buffers: MiB of weights in each kind of buffer; empty if unknown.
        batched_types: quantisations that this CPU multiplies with a few columns at once.
        speed: the speed check, unless it was left out.
    """

    backends: tuple[str, ...]
    gpu_devices: tuple[str, ...]
    gpu_traces: tuple[str, ...]
    is_native_build: bool
    n_cores: int | None
    cpu_quota: float | None
    load: float | None
    memory_available: int
    size: int
    n_params: int
    file_type: str
    draft_shape: str | None
    weight_buffers: dict[str, float] = field(default_factory=dict)
    batched_types: tuple[str, ...] = ()
    speed: SpeedCheck | None = None
    is_on_gpu: bool = False


def advise(facts: Facts) -> list[str]:
    """One text a finding, the weightiest first. Empty if nothing was found."""
    rules = (_gpu, _build, _memory, _threads, _busy, _drafting, _batches, _wide_weights)
    return [text for rule in rules for text in rule(facts)]


def _gpu(facts: Facts) -> Iterator[str]:
    builds = [name for name in facts.backends if name != "cpu"]
    if facts.gpu_traces and not builds:
        yield (
            f"There seems to be a GPU here: {', '.join(facts.gpu_traces)}. This build computes on "
            "the CPU alone: build again with `python3 build.py build --backend cuda` (or metal, "
            "vulkan)."
        )
    elif builds and not facts.gpu_devices:
        yield (
            f"This build was made for {', '.join(builds)}, but sees no such device here: check "
            "the driver."
        )
    elif facts.gpu_devices and facts.weight_buffers and _is_all_on_cpu(facts.weight_buffers):
        yield (
            f"None of the weights is on {', '.join(facts.gpu_devices)}: load the model with "
            "--n-gpu-layers -1."
        )


def _is_all_on_cpu(buffers: dict[str, float]) -> bool:
    return all(map(_is_on_cpu, buffers))


def _is_on_cpu(buffer: str) -> bool:
    return buffer.startswith("CPU") or buffer in _REARRANGED


def _build(facts: Facts) -> Iterator[str]:
    if not facts.is_native_build:
        yield (
            "The kernels were built for any CPU of this architecture, not for this one: build "
            "again on this machine with `python3 build.py build`, without GGML_NATIVE=OFF."
        )


def _memory(facts: Facts) -> Iterator[str]:
    on_gpus = sum(mib for name, mib in facts.weight_buffers.items() if not _is_on_cpu(name))
    on_host = facts.size - int(on_gpus * 2**20)
    if on_host > facts.memory_available:
        yield (
            f"The weights take {gibibytes(on_host)} of the host's memory, and "
            f"{gibibytes(facts.memory_available)} are available: each pass reads a part of them "
            "from disk. Use a smaller quantisation or free memory."
        )


def _threads(facts: Facts) -> Iterator[str]:
    if facts.speed is None or facts.is_on_gpu:
        return
    n_threads = facts.speed.n_threads
    if facts.cpu_quota is not None and n_threads > facts.cpu_quota:
        yield (
            f"{n_threads} threads share {facts.cpu_quota:g} cores' worth of time that this "
            f"container may use: try --threads {max(1, int(facts.cpu_quota))}."
        )
    elif facts.n_cores is not None and n_threads > facts.n_cores:
        yield (
            f"{n_threads} threads run on {facts.n_cores} physical cores: try "
            f"--threads {facts.n_cores}."
        )


def _busy(facts: Facts) -> Iterator[str]:
    if facts.speed is None or facts.load is None or facts.n_cores is None:
        return
    if facts.load > _BUSY_SHARE * facts.n_cores:
        yield (
            f"Other processes were busy (load {facts.load:.1f} on {facts.n_cores} cores): the "
            "times are too long and uneven. Run the check again on an idle machine."
        )


def _drafting(facts: Facts) -> Iterator[str]:
    if facts.draft_shape == "plain":
        yield (
            "This architecture has a recurrent state that cannot be rolled back, so nothing is "
            "drafted: it always decodes token by token."
        )
    if facts.speed is None or len(facts.speed.median_s) < 2:
        return
    if facts.speed.best(_HIGH_ACCEPTANCE)[1] < _MIN_SPEEDUP:
        yield (
            "Trees do not pay off here: even at an acceptance rate of 90%, no measured size would "
            "be faster than plain decoding. Use --drafter none."
        )
        return
    yield from (_gain(facts.speed, acceptance) for acceptance in ACCEPTANCES)


def _gain(speed: SpeedCheck, acceptance: float) -> str:
    size, gain = speed.best(acceptance)
    if gain < _MIN_SPEEDUP:
        return (
            f"At an acceptance rate of {acceptance:.0%}, plain decoding is best (--drafter none)."
        )
    return (
        f"At an acceptance rate of {acceptance:.0%}, passes over {size} nodes are best "
        f"(--n-draft {size - 1}): {gain:.2f} times plain decoding."
    )


def _batches(facts: Facts) -> Iterator[str]:
    """Expensive batches whose cause is the weight type."""
    speed = facts.speed
    if speed is None or 4 not in speed.median_s or speed.cost(4) < _COSTLY_BATCH:
        return
    if not facts.weight_buffers or not _is_all_on_cpu(facts.weight_buffers):
        return
    cost = f"A pass over 4 nodes costs {speed.cost(4):.1f} times a pass over one"
    if facts.file_type.removeprefix("all ").startswith(facts.batched_types):
        yield f"{cost}, although weights of type {facts.file_type} are multiplied with all at once."
    elif facts.batched_types:
        better = ", ".join(name for name in facts.batched_types if "Q" in name)
        yield (
            f"{cost}. Weights of type {facts.file_type} are multiplied with one after the other on "
            f"this CPU; {better} are not: requantise to one of them with "
            "pytreellama.quantize and run this check on the result."
        )


def _wide_weights(facts: Facts) -> Iterator[str]:
    bits = 8 * facts.size / max(facts.n_params, 1)
    if facts.speed is None or bits < _WIDE_WEIGHTS_BITS:
        return
    rate = facts.size / facts.speed.median_s[1] / 1e9
    yield (
        f"The weights take {bits:.0f} bits each, and a pass over one node reads them at "
        f"{rate:.1f} GB/s: as Q8_0 there would be {bits / 8.5:.1f} times less to read."
    )
