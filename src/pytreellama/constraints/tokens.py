"""Adapter from a ``Vocab`` to llguidance's tokenizer."""

from __future__ import annotations

import weakref
from typing import TYPE_CHECKING

from pytreellama.constraints.calls import call
from pytreellama.errors import GrammarError
from pytreellama.model.vocab import Vocab

if TYPE_CHECKING:
    from llguidance import LLTokenizer

# Only the next token of a forced text is used.
_MAX_FORCED_BYTES = 4096

# Longer tokens are never allowed: llguidance fails on them.
_MAX_TOKEN_BYTES = 512

# building a tokenizer's prefix tree takes 100 ms and more for large vocabularies
_tokenizers: weakref.WeakKeyDictionary[Vocab, LLTokenizer] = weakref.WeakKeyDictionary()


def tokenizer_of(vocab: Vocab) -> LLTokenizer:
    """Return llguidance's tokenizer for a vocabulary; it is created once.

    Raises:
        GrammarError: the vocabulary has no end-of-generation token.
    """
    tokenizer = _tokenizers.get(vocab)
    if tokenizer is None:
        from llguidance import LLTokenizer, TokenizerWrapper

        eog = sorted(vocab.eog_tokens)
        if not eog:
            raise GrammarError(
                "this vocabulary has no end-of-generation token: no grammar or schema can end"
            )
        tokens = _Tokens(vocab, eog[0])
        tokenizer = call(LLTokenizer, TokenizerWrapper(tokens), eos_token=eog)
        _tokenizers[vocab] = tokenizer
    return tokenizer


class _Tokens:
    """A vocabulary in llguidance's form. Holds a weak reference, so the cache does not keep it."""

    def __init__(self, vocab: Vocab, eos: int) -> None:
        self._vocab = weakref.ref(vocab)
        self.eos_token_id = eos
        self.bos_token_id = vocab.bos
        self.tokens = [piece if len(piece) <= _MAX_TOKEN_BYTES else b"" for piece in vocab.pieces]
        self.special_token_ids = sorted(vocab.control_tokens | vocab.eog_tokens)

        self._by_piece = {piece: token for token, piece in enumerate(self.tokens) if piece}
        self._n_longest = max(map(len, self._by_piece))

    def __call__(self, text: bytes | str) -> list[int]:
        """Tokenise forced text, which may continue other text."""
        data = _beginning(text.encode("utf-8") if isinstance(text, str) else text)
        tokens = self._encode_as_the_model_would(data)
        return tokens if self._bytes_of(tokens) == data else self._encode_longest_first(data)

    def _encode_as_the_model_would(self, data: bytes) -> list[int]:
        vocab = self._vocab()
        if vocab is None:
            raise GrammarError("the model of this grammar or schema is gone")
        return vocab.encode_continuation(data.decode("utf-8", "replace"))

    def _encode_longest_first(self, data: bytes) -> list[int]:
        tokens: list[int] = []
        while data:
            lengths = range(min(len(data), self._n_longest), 0, -1)
            piece = next((data[:n] for n in lengths if data[:n] in self._by_piece), None)
            if piece is None:
                raise GrammarError(f"no token of the vocabulary begins {data!r}")
            tokens.append(self._by_piece[piece])
            data = data[len(piece) :]
        return tokens

    def _bytes_of(self, tokens: list[int]) -> bytes:
        return b"".join(self.tokens[token] for token in tokens)


def _beginning(data: bytes) -> bytes:
    """Truncate UTF-8 to a number of bytes, without splitting a character."""
    n = min(len(data), _MAX_FORCED_BYTES)
    while 0 < n < len(data) and data[n] & 0xC0 == 0x80:
        n -= 1
    return data[:n]
