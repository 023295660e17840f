"""What the build and the machine say of themselves, read rightly."""

from __future__ import annotations

import logging

from pytreellama import system

INFO = "CPU : SSE3 = 1 | AVX2 = 1 | AVX512 = 0 | REPACK = 1 | CUDA : ARCHS = 900 | "


def test_features_are_those_that_are_on() -> None:
    assert system._enabled(INFO) == ("SSE3", "AVX2", "REPACK", "ARCHS")
    assert system._enabled("") == ()


def test_this_build_has_a_cpu_device_and_repeats_what_was_built() -> None:
    assert any(device.kind == "cpu" for device in system.devices())
    assert system.build_info()["commit"]
    assert system.llama_version()


def test_weight_buffers_are_read_from_the_log() -> None:
    log = [
        "load_tensors:          AMX model buffer size =    95.34 MiB",
        "load_tensors:   CPU_Mapped model buffer size =    92.10 MiB",
        "llama_kv_cache:        CPU KV buffer size =     5.62 MiB",
    ]
    assert system.weight_buffers(log) == {"AMX": 95.34, "CPU_Mapped": 92.10}


def test_types_are_multiplied_at_once_where_the_cpu_has_the_feature() -> None:
    assert "Q4_1" in system.batched_types(["AMX_INT8"])
    assert "Q4_1" not in system.batched_types(["AVX2"])
    assert "Q4_1" in system.batched_types(["AVX2", "INVARIANT"])
    assert system.batched_types([]) == ()


def test_the_log_is_collected_while_asked_for_and_left_as_it_was() -> None:
    logger = logging.getLogger("pytreellama.native")
    before = (logger.level, logger.propagate, list(logger.handlers))
    with system.native_log() as lines:
        logger.debug("inside %d", 1)
    logger.debug("outside")
    assert lines == ["inside 1"]
    assert (logger.level, logger.propagate, list(logger.handlers)) == before


def test_machine_facts_are_plausible() -> None:
    facts = system.machine_facts()
    assert 0 < facts["memory_available"] <= facts["memory"]
    assert facts["n_logical_cores"] >= 1
    assert facts["cpu_quota"] is None or facts["cpu_quota"] > 0
