"""GGUF files taken apart and put together again, byte by byte and with nothing checked.

https://github.com/ggml-org/ggml/blob/master/docs/gguf.md
"""

from __future__ import annotations

import struct
from collections.abc import Iterable
from copy import deepcopy
from dataclasses import dataclass, field
from pathlib import Path
from typing import cast

U8, I8, U16, I16, U32, I32, F32, BOOL, STRING, ARRAY, U64, I64, F64 = range(13)
_FORMATS = {U8: "B", I8: "b", U16: "H", I16: "h", U32: "I", I32: "i", F32: "f", BOOL: "?"}
_FORMATS |= {U64: "Q", I64: "q", F64: "d"}
_ALIGNMENT = 32


@dataclass(frozen=True)
class Value:
    """A value of the metadata: its type's number, and its bytes as they stand in the file."""

    type: int
    data: bytes


def number(type_: int, value: float) -> Value:
    """A number; whole ones wrap around, as C's do."""
    return Value(type_, _packed(type_, value))


def text(value: str | bytes) -> Value:
    """A string, which may hold anything."""
    raw = value.encode() if isinstance(value, str) else value
    return Value(STRING, struct.pack("<Q", len(raw)) + raw)


def array(type_: int, values: Iterable[float] | Iterable[str | bytes]) -> Value:
    """An array of numbers or of strings."""
    items = [
        text(cast("str | bytes", v)).data if type_ == STRING else _packed(type_, v) for v in values
    ]
    return Value(ARRAY, struct.pack("<IQ", type_, len(items)) + b"".join(items))


def _packed(type_: int, value: object) -> bytes:
    if type_ in (U8, I8, U16, I16, U32, I32, U64, I64):
        size = struct.calcsize(_FORMATS[type_])
        return (int(value) % 256**size).to_bytes(size, "little")  # type: ignore[call-overload, no-any-return]
    return struct.pack("<" + _FORMATS[type_], value)


@dataclass
class Tensor:
    """A tensor: its sides as the file gives them, its type's number and its bytes."""

    name: str
    sides: tuple[int, ...]
    type: int
    data: bytes


@dataclass
class Gguf:
    """A file's metadata, in order, and its tensors."""

    values: dict[str, Value] = field(default_factory=dict)
    tensors: list[Tensor] = field(default_factory=list)

    @classmethod
    def read(cls, path: Path) -> Gguf:
        reader = _Reader(path.read_bytes())
        reader.skip(8)
        n_tensors, n_values = reader.number(U64), reader.number(U64)
        values = {}
        for _ in range(n_values):
            key = reader.string().decode()
            type_ = reader.number(U32)
            values[key] = Value(type_, reader.raw(type_))
        infos = []
        for _ in range(n_tensors):
            name = reader.string().decode()
            sides = tuple(reader.number(U64) for _ in range(reader.number(U32)))
            infos.append((name, sides, reader.number(U32), reader.number(U64)))
        begin = -(-reader.at // _ALIGNMENT) * _ALIGNMENT
        ends = [*sorted(offset for *_, offset in infos)[1:], len(reader.data) - begin]
        end_of = dict(zip(sorted(offset for *_, offset in infos), ends, strict=True))
        tensors = [
            Tensor(name, sides, type_, reader.data[begin + offset : begin + end_of[offset]])
            for name, sides, type_, offset in infos
        ]
        return cls(values, tensors)

    @property
    def architecture(self) -> str:
        return self.values["general.architecture"].data[8:].decode()

    def copy(self) -> Gguf:
        return deepcopy(self)

    def renamed(self, architecture: str) -> Gguf:
        """The same file as another architecture's, its keys too."""
        old = self.architecture + "."
        values = {
            f"{architecture}.{key[len(old) :]}" if key.startswith(old) else key: value
            for key, value in self.values.items()
        }
        values["general.architecture"] = text(architecture)
        return Gguf(values, list(self.tensors))

    def tensor(self, name: str) -> Tensor:
        return next(tensor for tensor in self.tensors if tensor.name == name)

    def to_bytes(self) -> bytes:
        head = [b"GGUF", struct.pack("<IQQ", 3, len(self.tensors), len(self.values))]
        for key, value in self.values.items():
            head += [text(key).data, struct.pack("<I", value.type), value.data]
        offset, body = 0, []
        for tensor in self.tensors:
            head += [text(tensor.name).data, struct.pack("<I", len(tensor.sides))]
            head += [struct.pack("<Q", side % 2**64) for side in tensor.sides]
            head.append(struct.pack("<IQ", tensor.type, offset))
            padded = tensor.data + bytes(-len(tensor.data) % _ALIGNMENT)
            body.append(padded)
            offset += len(padded)
        begin = b"".join(head)
        return begin + bytes(-len(begin) % _ALIGNMENT) + b"".join(body)

    def write(self, path: Path) -> Path:
        path.write_bytes(self.to_bytes())
        return path


class _Reader:
    def __init__(self, data: bytes) -> None:
        self.data, self.at = data, 0

    def skip(self, n_bytes: int) -> bytes:
        self.at += n_bytes
        return self.data[self.at - n_bytes : self.at]

    def number(self, type_: int) -> int:
        return int(struct.unpack("<" + _FORMATS[type_], self.skip(_size(type_)))[0])

    def string(self) -> bytes:
        return self.skip(self.number(U64))

    def raw(self, type_: int) -> bytes:
        begin = self.at
        if type_ == ARRAY:
            item, count = self.number(U32), self.number(U64)
            for _ in range(count):
                self.raw(item)
        elif type_ == STRING:
            self.string()
        else:
            self.skip(_size(type_))
        return self.data[begin : self.at]


def _size(type_: int) -> int:
    return struct.calcsize("<" + _FORMATS[type_])
