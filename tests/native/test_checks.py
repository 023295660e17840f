"""Statuses and NULL pointers become exceptions, in one place."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pytreellama.errors import (
    BatchError,
    DecodeError,
    MemoryStateError,
    ModelLoadError,
    PyTreeLlamaError,
)
from pytreellama.native.checks import check, check_count, check_pointer
from pytreellama.native.library import ffi
from pytreellama.native.model import check_gguf

error_classes = st.sampled_from([BatchError, DecodeError, MemoryStateError, ModelLoadError])
statuses = st.integers(-(2**31), 2**31 - 1)


@given(statuses, error_classes, st.text(), st.booleans())
def test_every_status_but_0_raises_what_was_asked_for(
    status: int, error: type[PyTreeLlamaError], what: str, with_log: bool
) -> None:
    if status == 0:
        check(status, error, what, with_log=with_log)
        return
    with pytest.raises(error) as raised:
        check(status, error, what, with_log=with_log, hint="try again")
    assert type(raised.value) is error
    assert str(raised.value).startswith(f"{what}: ")
    assert str(raised.value).endswith("; try again")


@given(statuses, error_classes)
def test_a_count_is_itself_unless_it_is_negative(count: int, error: type[PyTreeLlamaError]) -> None:
    if count >= 0:
        assert check_count(count, error, "counting failed") == count
        return
    with pytest.raises(error, match="counting failed: "):
        check_count(count, error, "counting failed")


def test_a_pointer_is_itself_unless_it_is_null() -> None:
    pointer = ffi.new("int32_t *")
    assert check_pointer(pointer, DecodeError, "no memory") == pointer
    with pytest.raises(DecodeError, match="no memory: "):
        check_pointer(ffi.NULL, DecodeError, "no memory")


def test_the_reason_is_the_text_of_the_exception_that_was_caught_in_c(tmp_path: Path) -> None:
    path = tmp_path / "cut.gguf"
    path.write_bytes(b"GGUF\x03\x00\x00\x00" + b"\xff" * 16)
    with pytest.raises(ModelLoadError) as raised:
        check_gguf(path, ModelLoadError, "it is damaged")
    assert len(str(raised.value)) > len("it is damaged: ")
    assert "gives no reason" not in str(raised.value)
