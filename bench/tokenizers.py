"""Tokenizers: time and memory of long texts, and whether tokens are those of another build.

    python bench/tokenizers.py [--json] [--reference FILE]

4 MB of English and 4 MB of one letter for each kind of tokenizer, each in a process of its own that
may take 60 s of a processor. All vocabularies are made of the default model's tokens; where byte
pairs are merged, the file differs by the name of the pre-tokenizer alone. Another build runs by its
PYTHONPATH; what it wrote with ``--json`` is the reference whose tokens must be the same.
"""

from __future__ import annotations

import argparse
import json
import signal
import subprocess
import sys
import sysconfig
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

from gguf import GGUFReader, GGUFWriter, TokenType

from lib.report import ROOT, Figure, note, publish
from pytreellama.model.default_model import default_model_path

PRE_TOKENIZERS = (
    *("smollm", "gpt-2", "llama-bpe", "qwen2", "qwen35", "tekken", "gpt-4o", "deepseek-v3"),
    *("deepseek-llm", "deepseek-coder", "falcon", "default", "command-r", "chatglm-bpe", "jais-2"),
    *("poro-chat", "viking", "chameleon", "granite-embed-multi-97m", "tiny_aya", "kimi-k2"),
    *("superbpe", "bailingmoe", "seed-coder", "ufakzeka", "afmoe", "laguna", "exaone-moe"),
    *("minicpm5", "youtu", "spark2_5", "llama4", "minimax-m2"),
)
MODELS = ("llama", "rwkv", "t5")
TIMED = (
    *("smollm", "gpt-2", "llama-bpe", "qwen2", "tekken", "gpt-4o", "deepseek-v3", "llama4"),
    *("default", "llama", "rwkv"),
)
N_BYTES = 4_000_000
LIMIT_S = 60.0

# a vocabulary, a text, and a limit; prints seconds of the processor, which others may use as well,
# peak memory, number of tokens and their hash
CHILD = """
import hashlib, json, resource, sys, time
import numpy as np
from pytreellama import Model

vocab = Model(sys.argv[1], vocab_only=True).vocab
text = open(sys.argv[2], encoding="utf-8", newline="").read()
vocab.encode("warm up")
unit = 1 if sys.platform == "darwin" else 1024
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
started_s = time.process_time()
resource.setrlimit(resource.RLIMIT_CPU, (int(started_s + float(sys.argv[3])) + 1,) * 2)
ids = vocab.encode(text, add_special=False)
seconds = time.process_time() - started_s
peak = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) * unit
digest = hashlib.sha256(np.array(ids, np.int32).tobytes()).hexdigest()[:16]
print(json.dumps({"seconds": round(seconds, 3), "megabytes": round(peak / 1e6, 1),
                  "tokens": len(ids), "sha256": digest}))
"""


def main() -> None:
    options = parse_options()
    with tempfile.TemporaryDirectory() as folder:
        texts = write_texts(Path(folder))
        runs: dict[str, Any] = {}
        for name in (*PRE_TOKENIZERS, *MODELS):
            path = write_vocabulary(Path(folder) / "model.gguf", name)
            asked = texts if name in TIMED else {"real text": texts["real text"]}
            for what, text in asked.items():
                note(f"{name}: {what}")
                runs[f"{name}: {what}"] = encoded(path, text)
    figures = figures_of(runs)
    if options.reference:
        figures += compared(runs, json.loads(options.reference.read_text())["rows"])
    publish("tokenizers", runs.items(), figures, options.json)


def parse_options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--json", action="store_true", help="one JSON object instead of tables")
    parser.add_argument("--reference", type=Path, metavar="FILE", help="another build's --json")
    return parser.parse_args()


def write_texts(folder: Path) -> dict[str, Path]:
    docs = "\n".join(path.read_text("utf-8") for path in sorted((ROOT / "docs").glob("*.md")))
    data = "\n".join(path.read_text("utf-8") for path in sorted((ROOT / "tests/data").iterdir()))
    texts = {
        "English": docs * (N_BYTES // len(docs) + 1),
        "one letter": "A" * N_BYTES,
        "real text": "\n".join([docs, data, standard_library(), characters()]),
    }
    paths = {}
    for i, (name, text) in enumerate(texts.items()):
        paths[name] = folder / f"{i}.txt"
        cut = text if name == "real text" else text[:N_BYTES]
        paths[name].write_text(cut, "utf-8", newline="")
    return paths


def standard_library() -> str:
    """Python's own source: prose, code, numbers, and tables of characters."""
    paths = sorted(Path(sysconfig.get_path("stdlib")).glob("*.py"))
    return "".join(path.read_text("utf-8", "replace") for path in paths)[:800_000]


def characters() -> str:
    """All of Unicode but surrogates, in lines of 24."""
    codes = [code for code in range(0x30000) if not 0xD800 <= code < 0xE000]
    lines = [codes[i : i + 24] for i in range(0, len(codes), 24)]
    return "\n".join("".join(map(chr, line)) for line in lines)


def contents(reader: GGUFReader, name: str) -> Any:
    field = reader.get_field(name)
    assert field is not None, f"{name} is missing"
    return field.contents()


def write_vocabulary(path: Path, name: str) -> Path:
    reader = GGUFReader(default_model_path())
    tokens: list[str] = contents(reader, "tokenizer.ggml.tokens")
    types: list[int] = contents(reader, "tokenizer.ggml.token_type")
    writer = GGUFWriter(path, "llama")
    add_shape(writer)
    if name not in MODELS:
        writer.add_tokenizer_model("gpt2")
        writer.add_tokenizer_pre(name)
        writer.add_token_merges(contents(reader, "tokenizer.ggml.merges"))
    else:
        writer.add_tokenizer_model(name)
        write = _rwkv_token if name == "rwkv" else _sentencepiece_token
        tokens, types = other_tokens(tokens, types, write)
        writer.add_token_scores([-float(i) for i in range(len(tokens))])
        writer.add_unk_token_id(0)
    writer.add_token_list(tokens)
    writer.add_token_types(types)
    writer.add_bos_token_id(1)
    writer.add_eos_token_id(2)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def add_shape(writer: GGUFWriter) -> None:
    writer.add_context_length(512)
    writer.add_embedding_length(64)
    writer.add_block_count(1)
    writer.add_feed_forward_length(64)
    writer.add_head_count(2)
    writer.add_layer_norm_rms_eps(1e-5)


def other_tokens(
    tokens: list[str], types: list[int], write: Callable[[bytes], str | None]
) -> tuple[list[str], list[int]]:
    """The same words as tokens of another kind of tokenizer."""
    plain = {*range(33, 127), *range(161, 173), *range(174, 256)}
    others = iter(range(256, 512))
    byte_of = {chr(b) if b in plain else chr(next(others)): b for b in range(256)}
    known = {"<unk>": int(TokenType.UNKNOWN)}
    known |= {name: int(TokenType.CONTROL) for name in ("<s>", "</s>")}
    for byte in range(256):
        text = write(bytes([byte])) if write is _rwkv_token else f"<0x{byte:02X}>"
        kind = TokenType.NORMAL if write is _rwkv_token else TokenType.BYTE
        known.setdefault(text or "", int(kind))
    for token, known_kind in zip(tokens, types, strict=True):
        if known_kind != TokenType.NORMAL:
            continue
        written = write(bytes(byte_of[letter] for letter in token))
        if written:
            known.setdefault(written, known_kind)
    return list(known), list(known.values())


def _sentencepiece_token(word: bytes) -> str | None:
    try:
        return word.decode("utf-8").replace(" ", "▁")
    except UnicodeDecodeError:
        return None


def _rwkv_token(word: bytes) -> str:
    return "".join(chr(b) if 32 <= b < 127 and chr(b) not in "\\'" else f"\\x{b:02x}" for b in word)


def encoded(vocabulary: Path, text: Path) -> dict[str, Any]:
    """What the child measures, or how it ended."""
    command = [sys.executable, "-c", CHILD, str(vocabulary), str(text), str(LIMIT_S)]
    done = subprocess.run(command, capture_output=True, check=False)
    if done.returncode in (-signal.SIGXCPU, -signal.SIGKILL):
        return {"ended": f"ran for more than {LIMIT_S:g} s"}
    if done.returncode < 0:
        return {"ended": f"died of {signal.Signals(-done.returncode).name}"}
    if done.returncode:
        return {"ended": done.stderr.decode().strip().rpartition("\n")[2]}
    found: dict[str, Any] = json.loads(done.stdout)
    return found


def figures_of(runs: dict[str, Any]) -> list[Figure]:
    ended = [name for name, run in runs.items() if "ended" in run]
    timed = {name: run for name, run in runs.items() if "seconds" in run}
    long = {name: run for name, run in timed.items() if not name.endswith("real text")}
    figures = [Figure.at_most("texts that ended the process or took more than 60 s", len(ended), 0)]
    for kind in ("English", "one letter"):
        seconds = [run["seconds"] for name, run in long.items() if name.endswith(kind)]
        sizes = [run["megabytes"] for name, run in long.items() if name.endswith(kind)]
        figures += [
            Figure.at_most(f"4 MB, {kind}: slowest (s)", max(seconds, default=LIMIT_S), 10.0),
            Figure.at_most(f"4 MB, {kind}: most memory (MB)", max(sizes, default=0.0), 1000.0),
        ]
    return figures


def compared(runs: dict[str, Any], reference: dict[str, Any]) -> list[Figure]:
    both = [name for name in runs if "sha256" in runs[name] and "sha256" in reference.get(name, {})]
    unlike = [name for name in both if runs[name]["sha256"] != reference[name]["sha256"]]
    for name in unlike:
        note(f"{name}: other tokens than the reference")
    return [
        Figure.at_least("texts compared with the reference", len(both), 1),
        Figure.at_most("texts with other tokens than the reference", len(unlike), 0),
    ]


if __name__ == "__main__":
    main()
