"""Saved states and other files of ours that lie are refused, and spoil nothing."""

from __future__ import annotations

import json
import os
import struct
from pathlib import Path
from typing import Any

import pytest

from alone import run_alone, survives
from pytreellama.context.params import CACHE_TYPES
from pytreellama.plan import KNOTS
from tiny_models import KINDS, tiny_model


def _long(*values: str) -> list[Any]:
    """Parameters of the long form alone."""
    return [pytest.param(value, marks=pytest.mark.long) for value in values]


# the names in each program: tiny(kind) a path, model, TEXT, refused(call) the name of its error
_HEAD = """
import sys, os, json, struct, random
from pathlib import Path
import numpy as np
import pytreellama as ptl
from pytreellama.errors import PyTreeLlamaError
TEXT = [1, *(261 + i * 7 % 59 for i in range(20))]
def refused(call, *arguments):
    try:
        call(*arguments)
    except (PyTreeLlamaError, MemoryError) as error:
        return type(error).__name__
    return None
def context(model, **options):
    sizes = {"n_ctx": 64, "n_batch": 32, "n_threads": 1, "n_seq_max": 3}
    return ptl.Context(model, **{**sizes, **options})
def logits(c, seq):
    c.prefill(TEXT, seq)
    c.prefill([300], seq, logits=True)
    return c.outputs.logits[0].copy()
model = ptl.Model(sys.argv[1])
"""

_POSITIONS = """
with context(model) as c:
    c.prefill(TEXT, 0)
    state = c.memory.save(0)
n_changed = 0
for at in range(len(state) - 4):
    here = struct.unpack_from("<i", state, at)[0]
    if here not in (5, 20) or n_changed > 40:
        continue
    for position in (-1, -2, -(2**31), 2**31 - 1, 2**30):
        bad = bytearray(state)
        struct.pack_into("<i", bad, at, position)
        n_changed += 1
        with context(model) as c:
            if refused(c.memory.load, bytes(bad), 1):
                assert c.sequences.n_past(1) == 0
                continue
            assert c.memory.pos_max(1) < 2**30, (at, position)
            refused(c.prefill, TEXT, 1), refused(lambda: c.decode(5, seq=1))
            refused(c.memory.save, 1)
            c.memory.rm(1)
            assert c.sequences.n_past(1) == 0 and not c.memory.n_cells_used, (at, position)
print(n_changed)
"""


@pytest.mark.parametrize("kind", ["rope", "swa", "recurrent", "hybrid"])
def test_positions_of_a_state_are_those_of_a_text(kind: str, tmp_path: Path) -> None:
    assert int(survives(_HEAD + _POSITIONS, str(tiny_model(kind, tmp_path)))) >= 5


_NOT_FINITE = """
kind, type_v, flash = sys.argv[2], sys.argv[3], sys.argv[4] == "flash"
options = {"type_k": type_v, "type_v": type_v, "flash_attention": None if flash else False}
with context(model, **options) as c:
    c.prefill(TEXT, 0)
    state = c.memory.save(0)
with context(model, **options) as c:
    expected = logits(c, 0)
for name, value in (("nan", np.nan), ("inf", np.inf)):
    width = "<f4" if type_v == "f32" or kind in ("recurrent", "hybrid") else "<f2"
    damage = np.full(200, value, width).tobytes()
    with context(model, **options) as c:
        if not refused(c.memory.load, state[: -len(damage)] + damage, 1):
            print("loaded")
        assert np.isfinite(logits(c, 0)).all(), name
        c.memory.rm(0), c.memory.rm(1)
        assert np.array_equal(logits(c, 1), expected), name
"""


@pytest.mark.parametrize("flash", ["plain", *_long("flash")])
@pytest.mark.parametrize("type_v", ["f16", *_long("f32")])
@pytest.mark.parametrize("kind", ["swa", "hybrid", *_long("rope", "recurrent")])
def test_a_state_that_is_not_finite_spoils_nobody(
    kind: str, type_v: str, flash: str, tmp_path: Path
) -> None:
    out = survives(_HEAD + _NOT_FINITE, str(tiny_model(kind, tmp_path)), kind, type_v, flash)
    assert "loaded" not in out


_NAN_TOKEN = """
with context(model) as c:
    expected = logits(c, 0)
with context(model, n_seq_max=1) as c:
    c.prefill([5, 7, 5], 0)
    c.memory.rm(0)
    assert np.array_equal(logits(c, 0), expected)
    c.prefill([7], 0)
    c.memory.clear(data=False)
    assert np.array_equal(logits(c, 0), expected)
"""


@pytest.mark.parametrize("kind", ["recurrent", "hybrid"])
def test_a_recurrent_state_is_gone_when_it_is_removed(kind: str, tmp_path: Path) -> None:
    from gguf_bytes import Gguf

    file = Gguf.read(tiny_model(kind, tmp_path))
    rows = file.tensor("token_embd.weight")
    width = rows.sides[0] * 4
    nan = struct.pack("<f", float("nan")) * rows.sides[0]
    rows.data = rows.data[: 7 * width] + nan + rows.data[8 * width :]
    survives(_HEAD + _NAN_TOKEN, str(file.write(tmp_path / "nan.gguf")))


_SHIFTS = """
chain = ptl.TokenTree.chain([5, 6])
for type_k in sys.argv[3:]:
    for flash in (None, False):
        for how in ("add", "div", "cp", "save", "file", "engine", "tree"):
            options = {"type_k": type_k, "flash_attention": flash}
            print(type_k, flash, how, flush=True)
            if how == "engine":
                with ptl.Engine(model, n_ctx=64, n_threads=1, **options) as engine:
                    wish = {"max_tokens": 90, "ignore_eos": True, "context_shift": True}
                    refused(lambda: engine.generate(TEXT, **wish))
                continue
            with context(model, **options) as c:
                c.prefill(TEXT, 0)
                m = c.memory
                call = {
                    "add": lambda: (m.rm(0, 0, 5), m.add(0, 5, -1, -5)),
                    "div": lambda: m.div(0, 0, -1, 2),
                    "cp": lambda: m.cp(0, 1),
                    "save": lambda: m.load(m.save(0), 1),
                    "file": lambda: (m.save_file("state.bin"), m.load_file("state.bin")),
                    "tree": lambda: (c.decode(chain, seq=0), c.commit(0, [0])),
                }[how]
                refused(call)
                refused(lambda: c.decode(5, seq=0))
                refused(c.prefill, [5, 6], 0)
"""


@pytest.mark.parametrize(
    ("kind", "types"),
    [
        ("rope", ("bf16", "q8_0")),
        *(pytest.param(kind, CACHE_TYPES, marks=pytest.mark.long) for kind in KINDS),
    ],
)
def test_every_operation_on_every_type_of_cache_is_done_or_refused(
    kind: str, types: tuple[str, ...], tmp_path: Path
) -> None:
    code = _HEAD + "os.chdir(sys.argv[2])\n" + _SHIFTS
    survives(code, str(tiny_model(kind, tmp_path)), str(tmp_path), *types, limit_s=300)


_DAMAGED_STATES = """
chance = random.Random(3)
with context(model) as c:
    c.prefill(TEXT, 0)
    states = {0: c.memory.save(0), None: c.memory.save()}
for i in range(int(sys.argv[2])):
    for seq, state in states.items():
        bad = bytearray(state)
        for _ in range(chance.randrange(1, 6)):
            at, size = chance.randrange(min(len(bad), 1500)), chance.choice((1, 4, 8))
            there = (bytes(size), b"\\xff" * size, chance.randbytes(size))
        bad[at : at + size] = chance.choice(there)
        bad = bytes(bad[: chance.choice((len(bad), chance.randrange(len(bad))))])
        with context(model) as c:
            refused(c.memory.load, bad, seq)
            refused(c.prefill, [5, 6], 0), refused(lambda: c.decode(7, seq=0))
            refused(c.memory.save), refused(c.memory.rm, 0), c.memory.clear()
            assert c.sequences.n_past(0) == 0
"""


@pytest.mark.parametrize("kind", ["rope", "hybrid"])
def test_damaged_states_do_not_end_the_process(kind: str, tmp_path: Path) -> None:
    survives(_HEAD + _DAMAGED_STATES, str(tiny_model(kind, tmp_path)), "40")


@pytest.mark.long
@pytest.mark.parametrize("kind", KINDS)
def test_many_damaged_states_do_not_end_the_process(kind: str, tmp_path: Path) -> None:
    code = _HEAD + _DAMAGED_STATES
    survives(code, str(tiny_model(kind, tmp_path)), "600", limit_s=600)


# -- files of ours: costs, kept texts, tables, corpora

_NESTED = "[" * 100_000 + "]" * 100_000
_COSTS: dict[str, Any] = {
    "nested arrays": _NESTED,
    "nested objects": '{"a":' * 100_000 + "1" + "}" * 100_000,
    "no JSON": "{",
    "no UTF-8": b"\xff\xfe\x00",
    "an integer of 6,000 digits": "9" * 6000,
    "a list": "[]",
    "no curve": "{}",
    "empty": "",
    "huge costs": [1e300] * 20,
    "tiny costs": [5e-324] * 20,
    "infinite costs": [float("inf")] * 20,
    "costs of one size": [0.1 * n for n in KNOTS],
}


def cost_file(content: str | bytes | list[float]) -> bytes:
    """A file's bytes, from those, a text, or the costs of a curve."""
    if isinstance(content, bytes):
        return content
    if isinstance(content, str):
        return content.encode()
    parts = dict.fromkeys(("read_s", "attend_s", "read_deviation", "attend_deviation"), 0.0)
    curve = {"knots": KNOTS, "knot_s": content, **parts, "sizes": [1]}
    return json.dumps({"curve": curve}).encode()


_USE_COSTS = """
from pytreellama.engine.known_costs import _path
with ptl.Engine(model, n_ctx=256, n_threads=1) as engine:
    path = _path(engine.context)
path.parent.mkdir(parents=True, exist_ok=True)
path.unlink(missing_ok=True)
how = sys.argv[2]
if how == "pipe":
    os.mkfifo(path)
elif how == "folder":
    path.mkdir()
elif how == "link to itself":
    path.symlink_to(path)
elif how == "device":
    path.symlink_to("/dev/zero")
else:
    path.write_bytes(Path(how).read_bytes())
with ptl.Engine(model, n_ctx=256, n_threads=1) as engine:
    n_tokens = len(engine.generate([5, 6, 7] * 8, max_tokens=20, ignore_eos=True).tokens)
print(n_tokens, json.loads(path.read_text())["curve"].get("sizes") if path.is_file() else "")
"""


_IN_SHORT = ("nested arrays", "huge costs", "costs of one size", "pipe")
_OTHERS = ("folder", "link to itself", "device", *(how for how in _COSTS if how not in _IN_SHORT))


@pytest.mark.parametrize("how", [*_IN_SHORT, *_long(*_OTHERS)])
def test_a_cost_file_that_lies_is_measured_anew(how: str, tmp_path: Path) -> None:
    file = tmp_path / "costs"
    file.write_bytes(cost_file(_COSTS.get(how, "")))
    environment = {"XDG_CACHE_HOME": str(tmp_path / "cache")}
    source = str(file) if how in _COSTS else how
    model = str(tiny_model("rope", tmp_path))
    out = survives(_HEAD + _USE_COSTS, model, source, environment=environment, limit_s=90)
    assert out.startswith("20 ")
    if how in _COSTS:
        assert len(json.loads(out[3:])) >= 3


_GONE = """
os.chdir(sys.argv[2])
model.close()
with ptl.Model("model.gguf") as model:
    for drafter in ("none", "auto"):
        engine = ptl.Engine(model, drafter, n_ctx=128, n_threads=1, n_cached_prefixes=2)
        engine.generate([5, 6], max_tokens=4)
        how = sys.argv[3]
        if drafter == "none":
            ways = {"chdir": lambda: os.chdir("/"), "delete": lambda: os.unlink("model.gguf")}
            ways["rename"] = lambda: os.rename("model.gguf", "other.gguf")
            ways[how]()
        engine.generate([5, 6, 7], max_tokens=4)
        engine.save_prefix_cache(Path(sys.argv[2]) / "kept")
        engine.close()
        assert engine.context.closed
"""


@pytest.mark.parametrize("how", ["delete", *_long("chdir", "rename")])
def test_a_model_that_is_loaded_needs_its_file_no_more(how: str, tmp_path: Path) -> None:
    path = tiny_model("rope", tmp_path)
    (tmp_path / "model.gguf").write_bytes(path.read_bytes())
    environment = {"XDG_CACHE_HOME": str(tmp_path / "cache")}
    survives(_HEAD + _GONE, str(path), str(tmp_path), how, environment=environment)


_OTHER_FILES = """
import zipfile, io
from pytreellama import draft
from pytreellama.draft.ngram_table import NGramTable
folder = Path(sys.argv[2])
chance = random.Random(int(sys.argv[3]))
table = NGramTable(1, 3)
table.add_text(TEXT * 3)
table.save(folder / "table.npz")
corpus = draft.Corpus.build([TEXT, TEXT[::-1]], folder / "corpus")
engine = ptl.Engine(model, "recycling", n_ctx=128, n_threads=1, n_cached_prefixes=4)
engine.generate(TEXT, max_tokens=8)
engine.save_prefix_cache(folder / "kept")
readers = {
    "table.npz": NGramTable.load,
    "corpus": lambda path: draft.Corpus(path).verify(),
    "kept": engine.load_prefix_cache,
}
def try_all(name, path):
    error = refused(readers[name], path)
    assert name != "kept" or error is None, error
for name in readers:
    whole = (folder / name).read_bytes()
    path = folder / f"bad-{name}"
    for i in range(int(sys.argv[4])):
        bad = bytearray(whole)
        for _ in range(chance.randrange(1, 5)):
            at, size = chance.randrange(len(bad)), chance.choice((1, 2, 8))
            there = (bytes(size), b"\\xff" * size, chance.randbytes(size))
        bad[at : at + size] = chance.choice(there)
        path.write_bytes(bad[: chance.choice((len(bad), len(bad), chance.randrange(len(bad))))])
        try_all(name, path)
    path.unlink()
    os.mkfifo(path)
    try_all(name, path)
    path.unlink()
    path.mkdir()
    try_all(name, path)
    path.rmdir()
    path.symlink_to("/dev/zero")
    try_all(name, path)
    for shape in ("(1099511627776,)", "(-1,)", "(2,", "(" * 3000):
        header = "{'descr': '<i4', 'fortran_order': False, 'shape': %s, }" % shape
        head = header.encode().ljust(118) + b"\\n"
        array = b"\\x93NUMPY\\1\\0" + struct.pack("<H", len(head)) + head
        path.unlink(missing_ok=True)
        with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
            for member in ("of", "kind", "tokens0", "state0", "sizes", "contexts"):
                archive.writestr(member + ".npy", array)
        try_all(name, path)
assert len(engine.generate(TEXT, max_tokens=4, ignore_eos=True).tokens) == 4
engine.close()
"""


@pytest.mark.parametrize(
    ("seed", "n_files"), [(0, 60), pytest.param(1, 3000, marks=pytest.mark.long)]
)
def test_other_files_of_ours_that_are_damaged_are_refused(
    seed: int, n_files: int, tmp_path: Path
) -> None:
    model = str(tiny_model("rope", tmp_path))
    environment = {"XDG_CACHE_HOME": str(tmp_path / "cache")}
    arguments = (model, str(tmp_path), str(seed), str(n_files))
    survives(_HEAD + _OTHER_FILES, *arguments, environment=environment, limit_s=600)


@pytest.mark.skipif(not hasattr(os, "geteuid"), reason="needs POSIX permissions")
def test_a_cache_that_cannot_be_written_is_done_without(tmp_path: Path) -> None:
    # a file where a folder belongs refuses everybody, root as well
    (tmp_path / "cache").write_text("")
    environment = {"XDG_CACHE_HOME": str(tmp_path / "cache")}
    code = (
        _HEAD
        + "with ptl.Engine(model, n_ctx=128, n_threads=1) as engine:\n"
        + "    print(len(engine.generate(TEXT, max_tokens=4, ignore_eos=True).tokens))\n"
        + "    print(refused(engine.save_prefix_cache, '/proc/nowhere/kept'))\n"
    )
    outcome = run_alone(code, str(tiny_model("rope", tmp_path)), environment=environment)
    assert outcome.code == 0, str(outcome)
    assert outcome.out.split() == ["4", "FileError"]
