"""Vocabularies: text to tokens and back. Functions take the model that holds the vocabulary."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from pytreellama.errors import VocabError
from pytreellama.native.checks import check, check_count
from pytreellama.native.handle import Handle
from pytreellama.native.library import ffi, lib
from pytreellama.process import awaited_calls

Int32 = NDArray[np.int32]

_MODEL_NAME_BYTES = 16

# those whose tokens stand for a bounded number of bytes
_BOUNDED = (
    lib.LLAMA_VOCAB_TYPE_SPM,
    lib.LLAMA_VOCAB_TYPE_BPE,
    lib.LLAMA_VOCAB_TYPE_RWKV,
)

_PARSED = 1 | 1 << 3  # LLAMA_TOKEN_ATTR_UNKNOWN, LLAMA_TOKEN_ATTR_CONTROL


def vocab_pointer(model: Handle) -> Any:
    """cdata ``const struct llama_vocab *``; valid while the model is open."""
    return lib.llama_model_get_vocab(model.pointer)


def n_tokens(model: Handle) -> int:
    """Number of tokens."""
    return int(lib.llama_vocab_n_tokens(vocab_pointer(model)))


def has_text(model: Handle) -> bool:
    """True if there is a tokenizer."""
    return bool(lib.llama_vocab_type(vocab_pointer(model)) != lib.LLAMA_VOCAB_TYPE_NONE)


def has_bounded_tokens(model: Handle) -> bool:
    """True if the tokenizer cannot make one token of any number of bytes."""
    return lib.llama_vocab_type(vocab_pointer(model)) in _BOUNDED


def tokenizer_model(model: Handle) -> str:
    """``tokenizer.ggml.model`` of the file, cut to 15 bytes; empty if it does not say."""
    name = ffi.new("char[]", _MODEL_NAME_BYTES)
    lib.llama_model_meta_val_str(model.pointer, b"tokenizer.ggml.model", name, len(name))
    text: bytes = ffi.string(name)
    return text.decode("utf-8", "replace")


# -- special tokens


def bos(model: Handle) -> int | None:
    """The token that begins a text, if the model has one."""
    return _token_or_none(lib.llama_vocab_bos(vocab_pointer(model)))


def eos(model: Handle) -> int | None:
    """The token that ends a text, if the model has one."""
    return _token_or_none(lib.llama_vocab_eos(vocab_pointer(model)))


def eot(model: Handle) -> int | None:
    """The token that ends a turn of a chat, if the model has one."""
    return _token_or_none(lib.llama_vocab_eot(vocab_pointer(model)))


def newline(model: Handle) -> int | None:
    """The token of a line break, if there is one."""
    return _token_or_none(lib.llama_vocab_nl(vocab_pointer(model)))


def infill_tokens(model: Handle) -> tuple[int | None, ...]:
    """The tokens before a prefix, a suffix, a middle, a repository's name and a file's name."""
    pointer = vocab_pointer(model)
    asked = (
        lib.llama_vocab_fim_pre,
        lib.llama_vocab_fim_suf,
        lib.llama_vocab_fim_mid,
        lib.llama_vocab_fim_rep,
        lib.llama_vocab_fim_sep,
    )
    return tuple(_token_or_none(ask(pointer)) for ask in asked)


def adds_bos(model: Handle) -> bool:
    """True if a text is to begin with BOS."""
    return bool(lib.llama_vocab_get_add_bos(vocab_pointer(model)))


def eog_tokens(model: Handle) -> frozenset[int]:
    """All tokens that end a generation."""
    pointer, is_eog = vocab_pointer(model), lib.llama_vocab_is_eog
    return frozenset(token for token in range(n_tokens(model)) if is_eog(pointer, token))


def control_tokens(model: Handle) -> frozenset[int]:
    """All tokens that steer and are not text."""
    pointer, is_control = vocab_pointer(model), lib.llama_vocab_is_control
    return frozenset(token for token in range(n_tokens(model)) if is_control(pointer, token))


def is_control(model: Handle, token: int) -> bool:
    """True for a token that steers and is not text; it must exist."""
    return bool(lib.llama_vocab_is_control(vocab_pointer(model), token))


def parsed_tokens(model: Handle) -> list[int]:
    """Tokens whose names are text unless ``tokenize`` parses special tokens, in order."""
    pointer, attributes = vocab_pointer(model), lib.llama_vocab_get_attr
    return [token for token in range(n_tokens(model)) if attributes(pointer, token) & _PARSED]


def suppressed_tokens(model: Handle) -> list[int]:
    """Tokens that the file says never to write."""
    count = ffi.new("int32_t *")
    tokens = lib.llama_vocab_get_suppress_tokens(vocab_pointer(model), count)
    return [int(tokens[i]) for i in range(count[0])]


# -- text


def tokenize(model: Handle, data: bytes, *, add_special: bool, parse_special: bool) -> Int32:
    """Token ids of UTF-8 text of less than 2 GiB, shape (n,). Raises ``VocabError``."""
    pointer = vocab_pointer(model)
    capacity = len(data) + 8
    failed = ffi.new("bool *")
    while True:
        tokens = np.empty(capacity, dtype=np.int32)
        with awaited_calls:
            count = lib.treellama_tokenize(
                pointer,
                data,
                len(data),
                ffi.from_buffer("llama_token[]", tokens),
                capacity,
                add_special,
                parse_special,
                failed,
            )
        check(int(failed[0]), VocabError, "llama.cpp cannot tokenize this text")
        if count >= 0:
            ids: Int32 = tokens[:count].copy()  # the capacity is several times the count
            return ids
        capacity = -count


def pieces(model: Handle, tokens: Int32, *, special: bool) -> tuple[bytes, NDArray[np.int64]]:
    """The bytes of all tokens, which must exist, and where each one's begin and the last one's end.

    Args:
        special: write the names of control tokens out.

    Raises:
        VocabError: llama.cpp cannot.
    """
    pointer = vocab_pointer(model)
    offsets = np.empty(len(tokens) + 1, dtype=np.int64)
    size = 8 * len(tokens) + 64
    while True:
        buffer = bytearray(size)
        with awaited_calls:
            n_bytes = lib.treellama_pieces(
                pointer,
                ffi.from_buffer("llama_token[]", tokens),
                len(tokens),
                special,
                ffi.from_buffer("char[]", buffer, require_writable=True),
                size,
                ffi.from_buffer("int64_t[]", offsets),
            )
        check_count(n_bytes, VocabError, "llama.cpp cannot decode these tokens")
        if n_bytes <= size:
            return bytes(memoryview(buffer)[:n_bytes]), offsets
        size = n_bytes


def _token_or_none(token: int) -> int | None:
    return token if token >= 0 else None
