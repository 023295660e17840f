"""Tokenizers: texts of one long run, of special tokens alone, and files with odd vocabularies."""

from __future__ import annotations

from pathlib import Path

import pytest
from gguf import GGUFWriter

from alone import survives
from tiny_vocabularies import MODELS, PRE_TOKENIZERS, SPECIALS, write_bpe, write_model

# a file, the bytes of each text, and "thread" or "main"; a thread's stack is smaller
ENCODE = """
import sys, threading
from pytreellama import Model
from pytreellama.errors import PyTreeLlamaError

path, n_bytes, where, *parts = sys.argv[1:]
try:
    vocab = Model(path, vocab_only=True).vocab
except PyTreeLlamaError as error:
    print(error)
    sys.exit()

def work():
    for part in parts:
        text = part * (int(n_bytes) // len(part.encode()))
        for end in ("", "a", "\\n"):
            try:
                ids = vocab.encode(text + end, add_special=False, parse_special=True)
            except PyTreeLlamaError as error:
                print(repr(part), error)
                continue
            assert all(0 <= token < vocab.n_tokens for token in ids)

if where == "thread":
    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
else:
    work()
print("done")
"""

WORDS = ("A", "a", "é", "中", "7", ".")
RUNS = (
    *(
        *WORDS,
        " ",
        "\n",
        "\t",
        "\r\n",
        " \n",
        "\x0b",
        "\u3000",
        "!",
        "_",
        "<",
        "[",
        "'",
        "'s",
        "a'",
    ),
    *(
        "a ",
        "a1",
        "Aa",
        "1 ",
        "\u0661",
        "½",
        "e\u0301",
        "\u0301",
        "\u200d",
        "👍",
        "👩\u200d👩",
        "가",
    ),
    *("\u0e01\u0e34", "あ", "\ue000", "\u2581", "\ufeff", "ｶ", "。", "\U0010ffff", "\x7f", "\x1f"),
    *(" " * 600 + "a", "1234567 ", "aB中1 '", "<|im_end|>", "</s> ", "<|im_end", "MixedCASEwords"),
)


def encode(path: Path, *parts: str, n_bytes: int, where: str = "main", limit_s: float = 60) -> str:
    """Encodes texts of these parts, repeated, in a process of its own."""
    return survives(ENCODE, str(path), str(n_bytes), where, *parts, limit_s=limit_s)


def name_of(pre: str | None) -> str:
    return pre or "none"


@pytest.mark.parametrize("pre", ["tekken", "deepseek-v3", "exaone-moe", None], ids=name_of)
def test_a_long_word_is_tokenised(tmp_path: Path, pre: str | None) -> None:
    path = write_bpe(tmp_path / "model.gguf", pre)
    assert encode(path, *WORDS, n_bytes=100_000, where="thread").endswith("done\n")


@pytest.mark.parametrize("model", MODELS)
def test_a_long_run_is_tokenised_by_every_kind_of_tokenizer(tmp_path: Path, model: str) -> None:
    path = write_model(tmp_path / "model.gguf", model)
    assert encode(path, *WORDS, " ", n_bytes=100_000, where="thread").endswith("done\n")


@pytest.mark.long
@pytest.mark.parametrize("pre", [*PRE_TOKENIZERS, None], ids=name_of)
def test_runs_of_every_class_are_tokenised(tmp_path: Path, pre: str | None) -> None:
    path = write_bpe(tmp_path / "model.gguf", pre)
    encode(path, *RUNS, n_bytes=100_000, where="thread", limit_s=120)


@pytest.mark.long
@pytest.mark.parametrize("model", MODELS)
def test_runs_of_every_class_are_tokenised_by_every_kind(tmp_path: Path, model: str) -> None:
    path = write_model(tmp_path / "model.gguf", model)
    encode(path, *RUNS, n_bytes=300_000, where="thread", limit_s=120)


@pytest.mark.long
@pytest.mark.parametrize("pre", ["tekken", "gpt-2", "superbpe", "jais-2", None], ids=name_of)
@pytest.mark.parametrize("part", ["a", "1"])
def test_a_word_of_eight_megabytes_is_tokenised(tmp_path: Path, pre: str | None, part: str) -> None:
    path = write_bpe(tmp_path / "model.gguf", pre)
    encode(path, part, n_bytes=8_000_000, limit_s=240)


def test_special_tokens_by_the_ten_thousand_are_found(tmp_path: Path) -> None:
    path = write_bpe(tmp_path / "model.gguf")
    encode(path, "<|im_end|>", "</s> ", n_bytes=400_000, limit_s=30)


@pytest.mark.parametrize("part", ["<", "<unused", "<unused1><unused22><unused333><unused4444>"])
def test_thousands_of_special_tokens_do_not_multiply_the_work(tmp_path: Path, part: str) -> None:
    names = [*SPECIALS, *(f"<unused{i}>" for i in range(6000))]
    path = write_bpe(tmp_path / "model.gguf", specials=names)
    encode(path, part, n_bytes=1_000_000, limit_s=45)


def test_special_tokens_within_each_other_do_not_multiply_the_work(tmp_path: Path) -> None:
    path = write_bpe(tmp_path / "model.gguf", user_defined=["\n" * n for n in range(2, 400)])
    encode(path, "\n", "\nx", "\n" * 30 + "x", n_bytes=300_000, limit_s=45)


@pytest.mark.parametrize("model", [*MODELS, "gpt2"])
def test_a_very_long_token_in_a_file_ends_nothing(tmp_path: Path, model: str) -> None:
    path, long = tmp_path / "model.gguf", "a" * 1_000_000
    if model == "gpt2":
        write_bpe(path, user_defined=[long])
    else:
        write_model(path, model, more=[long], user_defined=["b" * 100_000])
    encode(path, "a", "b", n_bytes=4000, where="thread", limit_s=45)


def test_bytes_that_an_rwkv_file_does_not_know_are_unknown_tokens(tmp_path: Path) -> None:
    def few(writer: GGUFWriter) -> None:
        writer.kv_data[0].pop("tokenizer.ggml.tokens")
        writer.kv_data[0].pop("tokenizer.ggml.token_type")
        writer.kv_data[0].pop("tokenizer.ggml.scores")
        writer.add_token_list(["<unk>", "<s>", "</s>", "▁▁", "a", "\\n", "é中"])
        writer.add_token_types([2, 3, 3, 1, 1, 1, 1])

    path = write_model(tmp_path / "model.gguf", "rwkv", change=few)
    encode(path, "\U00040000", "é", "▁", "\x80", n_bytes=1000, limit_s=20)


ODD = """
import sys
from pytreellama import Model
from pytreellama.errors import PyTreeLlamaError

vocab = Model(sys.argv[1], vocab_only=True).vocab
texts = ["\\0" * 5, "a\\0b", "\\ud800", "a\\udfff", "\\ufeff" * 9, "", b"\\xff\\xfe", b"a\\0", b""]
for text in texts:
    try:
        assert vocab.decode_bytes(vocab.encode(text, add_special=False)) in (
            text if isinstance(text, bytes) else text.encode(), text)
    except PyTreeLlamaError as error:
        print(error)
"""


@pytest.mark.parametrize("pre", ["tekken", "gpt-2", None], ids=name_of)
def test_odd_characters_come_back_or_are_refused(tmp_path: Path, pre: str | None) -> None:
    survives(ODD, str(write_bpe(tmp_path / "model.gguf", pre)))


HUGE = """
import sys
import numpy as np
from pytreellama import Model
from pytreellama.errors import PyTreeLlamaError

vocab = Model(sys.argv[1], vocab_only=True).vocab
for text in ("a", "the cat and the dog "):
    text *= 100_000_000 // len(text)
    try:
        ids = vocab.encode(text, add_special=False)
    except PyTreeLlamaError as error:
        print(error)
    else:
        assert vocab.decode_bytes(np.array(ids, np.int32)) == text.encode()
"""


@pytest.mark.long
@pytest.mark.parametrize("pre", ["tekken", "gpt-2"])
def test_a_hundred_megabytes_are_tokenised_or_refused(tmp_path: Path, pre: str) -> None:
    survives(HUGE, str(write_bpe(tmp_path / "model.gguf", pre)), limit_s=400)
