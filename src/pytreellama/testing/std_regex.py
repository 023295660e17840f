"""Tokenizing as llama.cpp does by itself: text is split by ``std::regex``."""

from __future__ import annotations

import numpy as np

from pytreellama.errors import VocabError
from pytreellama.model.vocab import Vocab
from pytreellama.native.checks import check
from pytreellama.native.vocab import vocab_pointer
from pytreellama.testing.library import ffi, lib


def encode_by_std_regex(vocab: Vocab, text: str) -> list[int]:
    """As ``vocab.encode(text, add_special=False)``; it recurses once a character of a match.

    Raises:
        VocabError: llama.cpp refuses the text.
    """
    data, failed = text.encode(), ffi.new("bool *")
    tokens = np.empty(len(data) + 8, dtype=np.int32)
    buffer = ffi.from_buffer("llama_token[]", tokens)
    count = lib.treellama_tokenize_by_std_regex(
        vocab_pointer(vocab.owner), data, len(data), buffer, len(tokens), failed
    )
    check(int(failed[0]), VocabError, "llama.cpp cannot tokenize this text")
    assert count >= 0, "a byte makes no more than a token"
    ids: list[int] = tokens[:count].tolist()
    return ids
