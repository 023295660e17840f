"""Files that hold a vocabulary and nothing else: every kind of tokenizer, every pre-tokenizer."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from gguf import GGUFWriter, TokenType

# one pre-tokenizer for each way in which llama.cpp splits text; others are names of these
PRE_TOKENIZERS = (
    *("afmoe", "bailingmoe", "chameleon", "chatglm-bpe", "command-r", "deepseek-coder"),
    *("deepseek-llm", "deepseek-v3", "default", "exaone-moe", "falcon", "gemma4", "gpt-2"),
    *("gpt-4o", "granite-embed-multi-97m", "jais-2", "kimi-k2", "laguna", "llama-bpe", "minicpm5"),
    *("poro-chat", "qwen2", "qwen35", "seed-coder", "spark2_5", "superbpe", "tekken", "tiny_aya"),
    *("ufakzeka", "viking", "youtu", "whitespace"),
)
MODELS = ("llama", "bert", "t5", "rwkv", "plamo2")

SPECIALS = ("<s>", "</s>", "<|im_end|>")


@dataclass
class Words:
    """The tokens of a vocabulary.

    Attributes:
        merges: of byte-level BPE, as pairs of text.
    """

    texts: list[str] = field(default_factory=list)
    types: list[TokenType] = field(default_factory=list)
    merges: list[tuple[str, str]] = field(default_factory=list)

    def add(self, texts: Iterable[str], kind: TokenType = TokenType.NORMAL) -> None:
        """Add what is not there yet."""
        known = set(self.texts)
        for text in texts:
            if text not in known:
                known.add(text)
                self.texts.append(text)
                self.types.append(kind)


def byte_letters() -> list[str]:
    """GPT-2's printable character for each byte."""
    plain = {*range(33, 127), *range(161, 173), *range(174, 256)}
    others = iter(range(256, 512))
    return [chr(byte) if byte in plain else chr(next(others)) for byte in range(256)]


def boundary_merges(seed: int = 0) -> list[tuple[bytes, bytes]]:
    """A merge for each two bytes where a character ends and another begins, in random order.

    So tokens tell where a pre-tokenizer has split a text.
    """
    lead = [*range(0x80), *range(0xC2, 0xF5)]
    last = [*range(0x80), *range(0x80, 0xC0)]
    pairs = [(bytes([a]), bytes([b])) for a in last for b in lead]
    random.Random(seed).shuffle(pairs)
    return pairs


def write_bpe(
    path: Path,
    pre: str | None = "gpt-2",
    *,
    specials: Sequence[str] = SPECIALS,
    user_defined: Sequence[str] = (),
    merges: Sequence[tuple[bytes, bytes]] = ((b"a", b"a"), (b"aa", b"aa"), (b" ", b" ")),
    change: Callable[[GGUFWriter], None] | None = None,
) -> Path:
    """A byte-level BPE vocabulary.

    Args:
        pre: name of the pre-tokenizer; None for a file without one.
        change: adds keys of its own to the file.
    """
    letters = byte_letters()
    words = Words()
    words.add(specials, TokenType.CONTROL)
    words.add(letters)
    pairs = [tuple("".join(letters[b] for b in one) for one in pair) for pair in merges]
    words.add("".join(pair) for pair in pairs)
    words.add(user_defined, TokenType.USER_DEFINED)
    words.merges = [(left, right) for left, right in pairs]
    return _write(path, "gpt2", words, pre=pre, change=change)


def write_model(
    path: Path,
    model: str,
    *,
    specials: Sequence[str] = SPECIALS,
    more: Sequence[str] = (),
    user_defined: Sequence[str] = (),
    change: Callable[[GGUFWriter], None] | None = None,
) -> Path:
    """A vocabulary of another kind of tokenizer, one of ``MODELS``."""
    words = Words()
    words.add(["<unk>"], TokenType.UNKNOWN)
    words.add(specials, TokenType.CONTROL)
    if model == "rwkv":
        words.add(_escaped(byte) for byte in range(256))
    elif model != "bert":
        words.add((f"<0x{byte:02X}>" for byte in range(256)), TokenType.BYTE)
    words.add(["▁", "a", "aa", "aaaa", "1", "b", "▁▁", "▁a", "é", "中", *more])
    words.add(user_defined, TokenType.USER_DEFINED)
    return _write(path, model, words, change=change)


def _escaped(byte: int) -> str:
    letter = chr(byte)
    return letter if " " <= letter <= "~" and letter not in "\\'" else f"\\x{byte:02x}"


def _write(
    path: Path,
    model: str,
    words: Words,
    *,
    pre: str | None = None,
    change: Callable[[GGUFWriter], None] | None = None,
) -> Path:
    writer = GGUFWriter(path, "llama")
    writer.add_context_length(512)
    writer.add_embedding_length(64)
    writer.add_block_count(1)
    writer.add_feed_forward_length(64)
    writer.add_head_count(2)
    writer.add_layer_norm_rms_eps(1e-5)
    writer.add_vocab_size(len(words.texts))
    writer.add_tokenizer_model(model)
    if pre is not None:
        writer.add_tokenizer_pre(pre)
    writer.add_token_list(words.texts)
    writer.add_token_types(words.types)
    if words.merges:
        writer.add_token_merges([" ".join(pair) for pair in words.merges])
    else:
        writer.add_token_scores([-float(i) for i in range(len(words.texts))])
    if model == "bert":
        writer.add_uint32("tokenizer.ggml.cls_token_id", 1)
        writer.add_sep_token_id(2)
    first = 1 if words.types[0] == TokenType.UNKNOWN else 0
    writer.add_bos_token_id(first)
    writer.add_eos_token_id(first + 1)
    if first:
        writer.add_unk_token_id(0)
    if change is not None:
        change(writer)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path
