"""The file of a corpus: a line of magic, a line of JSON, and two int32 arrays to map."""

from __future__ import annotations

import json
import os
import zlib
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import BinaryIO, Final

import numpy as np

from pytreellama.draft.protocol import Int32Array
from pytreellama.errors import DraftError
from pytreellama.files import parse_json, regular_file, replaced_file

_MAGIC = b"pytreellama corpus 1\n"
_LONGEST_HEADER = 4096
_ALIGNMENT = 64  # bytes; the arrays begin at a multiple of it
_ITEM: Final = np.dtype("<i4")
_CHECKED_AT_ONCE = 1 << 20  # items


@dataclass(frozen=True, slots=True)
class CorpusHeader:
    """What a file of a corpus says of itself."""

    n_texts: int
    n_items: int
    """Length of the first array: all tokens, and an end after each text."""
    n_places: int
    """Length of the second array."""
    vocab: str | None
    """A fingerprint of the vocabulary, if one was given."""
    crc32: int
    """The `checksum` of everything else."""


def write_corpus(
    path: Path, tokens: Int32Array, places: Int32Array, n_texts: int, vocab: str | None
) -> None:
    """Write the file; one that is there already is replaced when all is written. FileError."""
    arrays = [array.astype(_ITEM, copy=False) for array in (tokens, places)]
    header = CorpusHeader(n_texts, len(tokens), len(places), vocab, crc32=0)
    header = replace(header, crc32=checksum(header, *arrays))
    with replaced_file(path) as file:
        _write_header(file, header)
        for array in arrays:
            file.write(array.data)


def _write_header(file: BinaryIO, header: CorpusHeader) -> None:
    line = json.dumps(asdict(header)).encode() + b"\n"
    if len(line) > _LONGEST_HEADER:
        raise DraftError(
            f"the fingerprint of the vocabulary has {len(header.vocab or '')} characters; "
            "give a shorter one, such as vocab_fingerprint(model.vocab.pieces)"
        )
    file.write(_MAGIC + line)
    file.write(bytes(-file.tell() % _ALIGNMENT))


def map_corpus(path: Path) -> tuple[CorpusHeader, Int32Array, Int32Array]:
    """The header, and the tokens and places as read-only views of the file.

    Raises DraftError if there is no such file, or it is cut, or not of a corpus.
    """
    if not path.exists():
        raise DraftError(f"there is no corpus at {path}; make one with Corpus.build")
    try:
        with regular_file(path) as file:
            header = _read_header(file)
            begin = file.tell() + -file.tell() % _ALIGNMENT
            size = os.fstat(file.fileno()).st_size
            expected = begin + _ITEM.itemsize * (header.n_items + header.n_places)
            if size != expected:
                raise ValueError(f"it has {size} bytes where {expected} belong")
            items = np.memmap(file, _ITEM, "r", begin, (header.n_items + header.n_places,))
    except (OSError, ValueError) as error:
        raise DraftError(
            f"{path} is no corpus of this version, or is damaged: {error}; "
            "make it again with Corpus.build"
        ) from error
    plain = items.view(np.ndarray)  # a memmap's own indexing is several times as slow
    return header, plain[: header.n_items], plain[header.n_items :]


def _read_header(file: BinaryIO) -> CorpusHeader:
    if file.read(len(_MAGIC)) != _MAGIC:
        raise ValueError("it does not begin as one")
    fields = parse_json(file.readline(_LONGEST_HEADER), "its header")
    try:
        header = CorpusHeader(**fields)
    except TypeError as error:
        raise ValueError(f"its header has other fields: {error}") from error
    counts = (header.n_texts, header.n_items, header.n_places)
    if not all(type(count) is int and count > 0 for count in counts):
        raise ValueError(f"its header counts {counts}")
    if not isinstance(header.vocab, str | None):
        raise ValueError("its header names no vocabulary")
    return header


def checksum(header: CorpusHeader, *arrays: Int32Array) -> int:
    """The CRC-32 of a header, without the one that it has, and of arrays' bytes."""
    crc32 = zlib.crc32(json.dumps(asdict(replace(header, crc32=0))).encode())
    for array in arrays:
        for begin in range(0, len(array), _CHECKED_AT_ONCE):
            crc32 = zlib.crc32(array[begin : begin + _CHECKED_AT_ONCE].tobytes(), crc32)
    return crc32
