"""GGUF files that say wrong things, and what a user does with them.

As a program: ``hostile_files.py FAMILY KIND FOLDER START STRIDE`` writes and uses the files of a
family one after another, and prints the name of each before and what became of it after.
"""

from __future__ import annotations

import random
import struct
import sys
from collections.abc import Callable, Iterator
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np

from gguf_bytes import (
    ARRAY,
    BOOL,
    F32,
    I32,
    STRING,
    U8,
    U32,
    U64,
    Gguf,
    Tensor,
    Value,
    array,
    number,
    text,
)
from tiny_models import tiny_model

_DATA = Path(__file__).parent / "data"
_NUMBERS = (0, 1, 2, 3, 7, 33, 600, 2**31 - 1, 2**31, 2**32 - 1)
_FLOATS = (0.0, -0.0, -1.0, 1e-45, 3e38, float("nan"), float("inf"), float("-inf"))
_TYPES = range(45)  # ggml's types of tensors, and a few that it has not

Case = tuple[str, Callable[[], bytes]]


def _lines(name: str) -> list[str]:
    lines = (_DATA / name).read_text(encoding="utf-8").splitlines()
    return [line for line in lines if not line.startswith("#")]


def cases(family: str, base: Gguf) -> Iterator[Case]:
    """The files of a family, made from a good one: a name, and a function that gives the bytes."""
    yield from _FAMILIES[family](base)


def _with(base: Gguf, **values: Value | None) -> bytes:
    """The file with values replaced, or left out where they are None."""
    changed = Gguf({**base.values, **values}, base.tensors)  # type: ignore[dict-item]
    changed.values = {key: value for key, value in changed.values.items() if value is not None}
    return changed.to_bytes()


# -- metadata


def _keys(base: Gguf) -> Iterator[Case]:
    """Every key left out, or with every kind of value."""
    n_layer = struct.unpack("<I", base.values[f"{base.architecture}.block_count"].data)[0]
    for key, value in base.values.items():
        others: list[Value | None] = [None, text("x"), text(b"\0\xff"), number(BOOL, True)]
        others += [number(U32, n) for n in _NUMBERS] + [number(I32, -1), number(U64, 2**63)]
        others += [number(F32, x) for x in _FLOATS]
        for n_items in (0, 1, n_layer, 600):
            others += [array(U32, [n] * n_items) for n in (0, 1, 2**31, 2**32 - 1)]
        others += [array(STRING, ["x"] * 3), array(F32, [float("nan")] * n_layer)]
        others += [Value(ARRAY, struct.pack("<IQ", U32, 2**62)), Value(99, b"")]
        for other in others:
            label = f"{key} = {'none' if other is None else (other.type, other.data[:24].hex())}"
            if other != value:
                yield label, lambda key=key, other=other: _with(base, **{key: other})


def _architectures(base: Gguf) -> Iterator[Case]:
    """The same tensors, said to be of another architecture."""
    for name in _lines("architectures.txt"):
        yield f"architecture {name}", lambda name=name: base.renamed(name).to_bytes()


def _counts(base: Gguf) -> Iterator[Case]:
    """Every architecture with all keys that there are, so that it comes past what it must find."""
    keys = _lines("architecture_keys.txt")
    kept = ("block_count", "embedding_length", "context_length", "vocab_size")
    for name in _lines("architectures.txt"):
        for n in (0, 1, 2, 4, 64):
            for left in ("none", "attention.head_count"):
                yield (
                    f"architecture {name}, all counts {n}, {left} left as it is",
                    lambda name=name, n=n, stay=(*kept, left): _all_counts(
                        base, name, n, keys, stay
                    ),
                )


def _all_counts(base: Gguf, name: str, n: int, keys: list[str], stay: tuple[str, ...]) -> bytes:
    file = base.renamed(name)
    for key in keys:
        full = f"{name}.{key}"
        if key not in stay and full not in file.values:
            is_float = any(part in key for part in ("epsilon", "scale", "freq", "factor", "eps"))
            file.values[full] = number(F32, 1.0) if is_float else number(U32, n)
        elif key not in stay and file.values[full].type == U32:
            file.values[full] = number(U32, n)
    file.values[f"{name}.rope.dimension_sections"] = array(I32, [n] * 4)
    file.values[f"{name}.rope.scaling.type"] = text("linear")
    return file.to_bytes()


def _sections(base: Gguf) -> Iterator[Case]:
    """RoPE of several positions, whose sections are wrong."""
    for name in _lines("architectures.txt"):
        for values in ([0] * 4, [1, -1, 0, 0], [-5] * 4, [2**31 - 1] * 4, [0, 0, 0, 8], [16] * 4):
            yield (
                f"architecture {name}, sections {values}",
                lambda name=name, values=values: _with(
                    base.renamed(name), **{f"{name}.rope.dimension_sections": array(I32, values)}
                ),
            )


# -- vocabulary


def _vocabulary(base: Gguf) -> Iterator[Case]:
    """Tokens, scores, types, merges and ids that do not fit together."""
    n = struct.unpack("<Q", base.values["tokenizer.ggml.tokens"].data[4:12])[0]
    plain = [f"t{i}" for i in range(n)]
    changes: dict[str, dict[str, Value | None]] = {}
    lists: dict[str, list[Any]] = {
        "all the same": ["a"] * n,
        "all empty": [""] * n,
        "with NUL": [f"{piece}\0" for piece in plain],
        "of bytes that are no UTF-8": [b"\xff\xfe" + piece.encode() for piece in plain],
        "too few": plain[:100],
        "one": ["a"],
        "none": [],
        "too many": [f"t{i}" for i in range(n + 5000)],
        "one of 1 MB": [*plain[:-1], "x" * 2**20],
        "one of 60 MB": [*plain[:-1], "x" * 60_000_000],
    }
    for label, tokens in lists.items():
        changes[f"tokens {label}"] = {"tokens": array(STRING, tokens)}
    for label, scores in {
        "too few": [0.0] * 10,
        "NaN": [float("nan")] * n,
        "infinite": [float("inf")] * n,
        "huge": [1e38, -1e38] * (n // 2),
    }.items():
        changes[f"scores {label}"] = {"scores": array(F32, scores)}
    for kind in (-1, 0, 1, 2, 3, 4, 5, 6, 7, 99, 2**31 - 1):
        changes[f"types all {kind}"] = {"token_type": array(I32, [kind] * n)}
    changes["types too few"] = {"token_type": array(I32, [1] * 10)}
    for model in ("gpt2", "llama", "bert", "t5", "rwkv", "plamo2", "no_vocab", "none", "x", ""):
        for merges in ([], ["a b"], [""], ["a"], [" "], ["a b c"], ["q w"] * 9999, ["\0 \0"]):
            changes[f"model {model}, merges {merges[:1]} x {len(merges)}"] = {
                "model": text(model),
                "pre": text("default"),
                "merges": array(STRING, merges),
            }
    for name in ("bos", "eos", "eot", "eom", "unknown", "padding", "fim_pre"):
        for value in (n, 2**31 - 1, 2**31, 2**32 - 1):
            changes[f"{name} = {value}"] = {f"{name}_token_id": number(U32, value)}
    for data in (b"", b"\0" * 3, b"\xff\xff\xff\xff" + b"a" * 100, b"\4\0\0\0" + b"\xff" * 4):
        charsmap: dict[str, Value | None] = {
            "model": text("t5"),
            "precompiled_charsmap": array(U8, data),
        }
        changes[f"charsmap {data[:6].hex()}"] = charsmap
    for label, change in changes.items():
        full: dict[str, Any] = {f"tokenizer.ggml.{key}": value for key, value in change.items()}
        yield label, lambda full=full: _with(base, **full)


# -- tensors


def _tensors(base: Gguf) -> Iterator[Case]:
    """Every tensor left out, of other sides, types and values."""
    for i, tensor in enumerate(base.tensors):
        for label, other in _other_tensors(tensor):
            yield f"{tensor.name} {label}", lambda i=i, other=other: _replaced(base, i, other)


def _other_tensors(tensor: Tensor) -> Iterator[tuple[str, Tensor | None]]:
    name, sides, type_, data = tensor.name, tensor.sides, tensor.type, tensor.data
    yield "left out", None
    for other in ((0,), (), sides[::-1], (*sides, 0), (*sides, 1), (0, *sides[1:]), (2**62, 2**3)):
        yield f"sides {other}", Tensor(name, other, type_, data)
    for other in ((-1,), (1,), (sides[0] + 1, *sides[1:]), (sides[0] // 2, *sides[1:])):
        yield f"sides {other}", Tensor(name, other, type_, data * 2)
    for other_type in _TYPES:
        yield f"type {other_type}", Tensor(name, sides, other_type, data * 2)
    if type_ == 0:
        for value in (np.nan, np.inf, -np.inf, 1e38, 0.0):
            values = np.full(len(data) // 4, value, np.float32).tobytes()
            yield f"all {value}", Tensor(name, sides, type_, values)


def _replaced(base: Gguf, i: int, tensor: Tensor | None) -> bytes:
    others = [] if tensor is None else [tensor]
    return Gguf(base.values, [*base.tensors[:i], *others, *base.tensors[i + 1 :]]).to_bytes()


# -- bytes


def _bytes(base: Gguf) -> Iterator[Case]:
    """Cut short, counts that are wrong, and bytes of the header that were changed."""
    whole = base.to_bytes()
    begin = len(whole) - sum(-(-len(tensor.data) // 32) * 32 for tensor in base.tensors)
    chance = random.Random(7)
    for at in sorted({*range(40), *(chance.randrange(len(whole)) for _ in range(150))}):
        yield f"cut at {at}", lambda at=at: whole[:at]
    for at, size in ((4, 4), (8, 8), (16, 8)):
        for value in (0, 1, 2, 4, 2**31, 2**32 - 1, 2**61, 2**63, 2**64 - 1):
            changed = (value % 256**size).to_bytes(size, "little")
            yield f"{value} at {at}", lambda at=at, changed=changed: _put(whole, at, changed)
    for i in range(600):
        at, size = chance.randrange(begin), chance.choice((1, 1, 4, 8))
        changed = chance.choice((bytes(size), b"\xff" * size, chance.randbytes(size)))
        yield f"{changed.hex()} at {at} ({i})", lambda at=at, c=changed: _put(whole, at, c)


def _put(whole: bytes, at: int, changed: bytes) -> bytes:
    return whole[:at] + changed + whole[at + len(changed) :]


_FAMILIES: dict[str, Callable[[Gguf], Iterator[Case]]] = {
    "keys": _keys,
    "architectures": _architectures,
    "counts": _counts,
    "sections": _sections,
    "vocabulary": _vocabulary,
    "tensors": _tensors,
    "bytes": _bytes,
}
FAMILIES = tuple(_FAMILIES)
"""The kinds of wrong files that there are."""


# -- using them


def use(path: Path) -> None:
    """Load a file and do with it what users do: tokenise, evaluate chains and trees, sample."""
    from pytreellama import Context, Engine, Model, TokenTree
    from pytreellama.errors import PyTreeLlamaError

    with Model(path) as model:
        repr(model), model.metadata, model.chat_template, model.vocab.eog_tokens
        try:
            ids = model.vocab.encode("Hello <|im_end|> \u00e9\U0001f600\n x", parse_special=True)
            model.vocab.decode(ids, special=True)
        except PyTreeLlamaError:
            pass
        for flash_attention in (None, False):
            options: dict[str, Any] = {"n_ctx": 64, "n_batch": 16, "n_threads": 2}
            with Context(model, flash_attention=flash_attention, **options) as context:
                seq = context.prefill(np.arange(8, dtype=np.int32) % context.n_vocab)
                tree = [[3, 4], [3, 5], [6]] if model.can_branch else [[3, 4]]
                nodes = [[token % context.n_vocab for token in path] for path in tree]
                context.decode(TokenTree.from_paths(nodes), seq=seq)
                context.commit(seq, [0])
        with Engine(model, n_ctx=64, n_threads=2) as engine:
            prompt = [token % engine.context.n_vocab for token in (3, 4, 5)]
            engine.generate(prompt, max_tokens=4, temperature=1.0, seed=1)


def main(family: str, kind: str, folder: str, start: str, stride: str) -> None:
    """Use the files of a family from one on, every so many, in this process."""
    from pytreellama.errors import PyTreeLlamaError

    base = Gguf.read(tiny_model(kind, folder))
    path = Path(folder) / f"hostile-{family}-{kind}.gguf"
    every = islice(enumerate(cases(family, base)), int(start), None, int(stride))
    for i, (label, make) in every:
        print(f"{i}\t{label}", flush=True)
        path.write_bytes(make())
        try:
            use(path)
            print("works", flush=True)
        except (PyTreeLlamaError, MemoryError) as error:
            print("refused", type(error).__name__, str(error)[-80:].replace("\n", " "), flush=True)
        except BaseException as error:
            print("odd", type(error).__name__, str(error)[-200:].replace("\n", " "), flush=True)


if __name__ == "__main__":
    main(*sys.argv[1:])
