"""Vocab: tokenises and detokenises text; special tokens."""

from __future__ import annotations

import codecs
import copy
import re
from collections.abc import Collection, Iterable, Sequence
from functools import cached_property
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from pytreellama.errors import RequestError, VocabError
from pytreellama.model.infill import InfillTokens
from pytreellama.native import vocab as native_vocab
from pytreellama.native.handle import Handle

Tokens = Sequence[int] | NDArray[np.int32]

_MAX_TEXT_BYTES = 2**31 - 16
_MAX_TOKENS = 2**31 - 1

# sentencepiece puts a space before a text's first character, so where a text goes on this one
# stands there instead: a control character, which no piece of text is merged with
_MARK = "\x01"

# what special tokens may swallow beside them
_WHITESPACE = b" \t\n\v\f\r"


class Vocab:
    """The vocabulary of a model, ``model.vocab``; usable until the model is closed.

    Example:
        tokens = model.vocab.encode("Once upon a time")
        text = model.vocab.decode(tokens)
        model.vocab.eos, model.vocab.n_tokens

    Attributes:
        n_tokens: vocabulary size.
        has_text: False for models without a tokenizer.
    """

    def __init__(self, model: Handle) -> None:
        self._model = model
        # a text is put together from few different tokens, and asked for one by one as it comes
        self._piece_of: dict[tuple[int, bool], bytes] = {}
        self.n_tokens: int = native_vocab.n_tokens(model)
        self.has_text: bool = native_vocab.has_text(model)

    @property
    def owner(self) -> Handle:
        """The native model that holds this vocabulary; share it to keep it in memory."""
        return self._model

    def held_by(self, model: Handle) -> Vocab:
        """Return the same vocabulary for another owner of the model; cached pieces are shared."""
        other = copy.copy(self)
        other._model = model
        return other

    def __len__(self) -> int:
        return self.n_tokens

    def __repr__(self) -> str:
        return f"<Vocab of {self.n_tokens} tokens>"

    @property
    def bos(self) -> int | None:
        """Beginning-of-sequence token; None without one."""
        return native_vocab.bos(self._model)

    @property
    def eos(self) -> int | None:
        """End-of-sequence token; None without one."""
        return native_vocab.eos(self._model)

    @property
    def eot(self) -> int | None:
        """End-of-turn token of a chat; None without one."""
        return native_vocab.eot(self._model)

    @property
    def newline(self) -> int | None:
        """Line-break token; None without one."""
        return native_vocab.newline(self._model)

    @cached_property
    def infill_tokens(self) -> InfillTokens | None:
        """Tokens of fill-in-the-middle prompts; None for a model that was not trained for them."""
        return InfillTokens.of(native_vocab.infill_tokens(self._model))

    @property
    def adds_bos(self) -> bool:
        """True if ``encode`` prepends the BOS token."""
        return native_vocab.adds_bos(self._model)

    @property
    def adds_eos(self) -> bool:
        """True if ``encode`` appends the EOS token (BERT: SEP)."""
        return len(self._ends[1]) > 0

    @cached_property
    def eog_tokens(self) -> frozenset[int]:
        """All end-of-generation tokens (end of text, of turn, of message)."""
        return native_vocab.eog_tokens(self._model)

    @property
    def control_tokens(self) -> frozenset[int]:
        """All control tokens, such as ``<|im_start|>``."""
        return native_vocab.control_tokens(self._model)

    @cached_property
    def _parsed_tokens(self) -> NDArray[np.int32]:
        """Tokens whose names are text unless special tokens are parsed, int32, shape (n,)."""
        return np.array(native_vocab.parsed_tokens(self._model), np.int32)

    @cached_property
    def _parsed_start(self) -> re.Pattern[str]:
        """Matches the first two characters of any of their names."""
        starts = {self.piece_text(token)[:2] for token in self._parsed_tokens.tolist()} - {""}
        return re.compile("|".join(map(re.escape, sorted(starts))) or "(?!)")

    def special_names(self, text: str) -> list[str]:
        """Names of special tokens that ``encode`` parses in a text with ``parse_special=True``.

        Returns:
            Each name once. Of names that overlap, only those that are parsed.

        Raises:
            VocabError: as ``encode``.
        """
        if self._parsed_start.search(text) is None:
            return []
        ids = np.unique(self._tokenize(text, False, True))
        found = ids[np.isin(ids, self._parsed_tokens)].tolist()
        # an unknown token also stands for text without a token of its own
        return [name for token in found if (name := self.piece_text(token)) and name in text]

    @cached_property
    def pieces(self) -> list[bytes]:
        """The bytes of every token, special tokens written out; computed once."""
        return self._pieces(np.arange(self.n_tokens, dtype=np.int32), special=True)

    def is_control(self, token: int) -> bool:
        """True for control tokens, such as ``<|im_start|>``."""
        return native_vocab.is_control(self._model, int(self._checked([token])[0]))

    def encode(
        self,
        text: str | bytes,
        *,
        add_special: bool = True,
        add_bos: bool | None = None,
        add_eos: bool | None = None,
        parse_special: bool = False,
    ) -> list[int]:
        """Tokenise text.

        Args:
            text: text, or UTF-8 bytes. NUL is a character like any other.
            add_special: add BOS and EOS, each only if the model's metadata says so (``adds_bos``,
                ``adds_eos``); BERT's CLS and SEP likewise.
            add_bos, add_eos: override ``add_special`` for one end. A prompt that will be continued
                must not end with EOS: ``add_eos=False``.
            parse_special: parse names of special tokens, such as ``<|im_end|>``, as tokens. Use it
                for rendered templates, not for untrusted text.

        Returns:
            Token ids.

        Raises:
            VocabError: the text is not valid UTF-8, or the model has no tokenizer.
        """
        ids: list[int] = self.encode_array(
            text,
            add_bos=add_special if add_bos is None else add_bos,
            add_eos=add_special if add_eos is None else add_eos,
            parse_special=parse_special,
        ).tolist()
        return ids

    def encode_array(
        self, text: str | bytes, *, add_bos: bool, add_eos: bool, parse_special: bool = False
    ) -> NDArray[np.int32]:
        """As ``encode``, but the ids are an array, int32, shape (n,)."""
        before, after = self._ends
        ids = self._tokenize(text, False, parse_special)
        parts = [before] * add_bos + [ids] + [after] * add_eos
        return np.concatenate(parts) if len(parts) > 1 else ids

    @cached_property
    def _ends(self) -> tuple[NDArray[np.int32], NDArray[np.int32]]:
        """The tokens before and after a text, as llama.cpp adds them to an empty one."""
        ends = self._tokenize("", True, False)
        n_before = int(len(ends) > 1 or self.adds_bos)
        return ends[:n_before], ends[n_before:]

    def _tokenize(
        self, text: str | bytes, add_special: bool, parse_special: bool
    ) -> NDArray[np.int32]:
        self._require_text("encode")
        data = _utf8(text)
        if len(data) > _MAX_TEXT_BYTES:
            raise VocabError(
                f"the text has {len(data)} bytes, llama.cpp takes at most {_MAX_TEXT_BYTES}; "
                "encode it in parts"
            )
        return native_vocab.tokenize(
            self._model, data, add_special=add_special, parse_special=parse_special
        )

    def least_tokens(self, text: str | bytes) -> int:
        """Lower bound on the number of tokens of a text, without tokenising it.

        Returns 0 for WordPiece and unigram tokenizers, which normalise text first and may map
        a word of any length to one unknown token.

        Raises:
            VocabError: the text is not valid UTF-8.
        """
        data = _utf8(text)
        if not self._longest_token:
            return 0
        return -(-len(data.translate(None, self._free_bytes)) // self._longest_token)

    def require_fits(self, text: str | bytes, n_tokens: int) -> None:
        """Refuse a text that exceeds ``n_tokens`` however it is tokenised, before tokenising it.

        Takes about a millisecond per megabyte. A text that passes may still be too long.

        Raises:
            RequestError: the text cannot fit.
            VocabError: the text is not valid UTF-8.
        """
        data = _utf8(text)
        if len(data) <= n_tokens:
            return
        n_least = self.least_tokens(data)
        if n_least > n_tokens:
            raise RequestError(
                f"the text of {len(data)} bytes has at least {n_least} tokens (the longest token "
                f"has {self._longest_token} bytes), and the context holds {n_tokens}; shorten "
                "it, or make the engine with a larger n_ctx"
            )

    @cached_property
    def _longest_token(self) -> int:
        """Bytes of text that one token can stand for; 0 if that has no bound."""
        if not native_vocab.has_bounded_tokens(self._model) or self._folds_text:
            return 0
        # a space of a token may stand for the three bytes of sentencepiece's mark
        return max(len(piece) + 2 * piece.count(b" ") for piece in self.pieces)

    @property
    def _folds_text(self) -> bool:
        """The tokenizer reads lower case, which may be shorter: K (Kelvin) of 3 bytes becomes k."""
        return native_vocab.tokenizer_model(self._model) == "whitespace"

    @cached_property
    def _free_bytes(self) -> bytes:
        """Bytes of text that may take no token: unknown ones, and white space at special tokens."""
        known = {piece[0] for piece in self.pieces if len(piece) == 1}
        return bytes(byte for byte in range(256) if byte in _WHITESPACE or byte not in known)

    def encode_continuation(self, text: str, *, parse_special: bool = False) -> list[int]:
        """Tokens of a text that goes on from another one.

        Nothing is put in front of it, neither BOS nor sentencepiece's space.

        Args:
            text: text.
            parse_special: as ``encode``.

        Raises:
            VocabError: as ``encode``.
        """
        mark = self.encode(_MARK, add_special=False) if self.adds_space_prefix else []
        marked = (_MARK if mark else "") + text
        return self.encode(marked, add_special=False, parse_special=parse_special)[len(mark) :]

    def decode(self, tokens: Tokens, *, special: bool = False) -> str:
        """The text of tokens; bytes that are not UTF-8 become U+FFFD.

        The space that sentencepiece vocabularies put before a text's first word is taken off
        again, so that ``decode(encode(text))`` is ``text`` (where the vocabulary has a token for
        each byte of it: few lack control characters and the rarest planes of Unicode).

        Args:
            tokens: ids, each in [0, n_tokens).
            special: write the names of control tokens out instead of leaving them out.

        Raises:
            VocabError: an id out of range, or a model without a tokenizer.
        """
        text = self.decode_bytes(tokens, special=special).decode("utf-8", "replace")
        return text[1:] if self.adds_space_prefix and text.startswith(" ") else text

    def decode_bytes(self, tokens: Tokens, *, special: bool = False) -> bytes:
        """The bytes of tokens, put together as they are. Arguments and errors as ``decode``."""
        return self._bytes_of(self._checked(tokens), special)[0]

    def piece(self, token: int, *, special: bool = False) -> bytes:
        """The bytes of one token. Arguments and errors as ``decode``."""
        key = (token, special)
        if key not in self._piece_of:
            self._piece_of[key] = self.decode_bytes([token], special=special)
        return self._piece_of[key]

    def piece_text(self, token: int) -> str:
        """One token written out, special ones too; bytes of half a character become U+FFFD."""
        return self.piece(token, special=True).decode("utf-8", "replace")

    @cached_property
    def adds_space_prefix(self) -> bool:
        """True if ``encode`` puts a space before a text's first word, as sentencepiece does."""
        return self.decode_bytes(self.encode("a", add_special=False)).startswith(b" ")

    def _pieces(self, tokens: NDArray[np.int32], special: bool) -> list[bytes]:
        data, offsets = self._bytes_of(tokens, special)
        return [data[a:b] for a, b in pairwise(offsets.tolist())]

    def _bytes_of(
        self, tokens: NDArray[np.int32], special: bool
    ) -> tuple[bytes, NDArray[np.int64]]:
        """The bytes of all tokens, and where each one's begin and the last one's end."""
        self._require_text("decode")
        if len(tokens) > _MAX_TOKENS:
            raise VocabError(
                f"{len(tokens)} tokens are more than llama.cpp decodes at once ({_MAX_TOKENS}); "
                "decode them in parts"
            )
        return native_vocab.pieces(self._model, tokens, special=special)

    def _checked(self, tokens: Tokens) -> NDArray[np.int32]:
        ids = np.asarray(tokens).reshape(-1)
        if ids.size and ids.dtype.kind not in "iu":
            raise VocabError(f"token ids must be integers that fit into 64 bits, not {ids.dtype}")
        wrong = (ids < 0) | (ids >= self.n_tokens)
        if wrong.any():
            raise VocabError(
                f"token id {int(ids[wrong][0])} is not in this vocabulary; "
                f"ids are from 0 to {self.n_tokens - 1}"
            )
        return ids.astype(np.int32)

    def _require_text(self, verb: str) -> None:
        if not self.has_text:
            raise VocabError(f"this model file has no tokenizer, so it cannot {verb} text; use ids")


class Detokenizer:
    """Turns tokens into text as they come, and never splits a UTF-8 character.

    Args:
        vocab: the vocabulary of the tokens.
        special: write the names of control tokens out; True for all of them, or which.
    """

    def __init__(self, vocab: Vocab, *, special: bool | Collection[int] = False) -> None:
        self._vocab = vocab
        self._special = special
        self._decoder = codecs.getincrementaldecoder("utf-8")("replace")

    def add(self, tokens: Iterable[int]) -> str:
        """The text that these tokens complete; bytes of an unfinished character wait."""
        special = self._special
        pieces = (
            self._vocab.piece(
                token, special=special if isinstance(special, bool) else token in special
            )
            for token in tokens
        )
        return self._decoder.decode(b"".join(pieces))

    def finish(self) -> str:
        """What is still waiting, as U+FFFD if it never became a character."""
        return self._decoder.decode(b"", final=True)


def _utf8(text: str | bytes) -> bytes:
    try:
        if isinstance(text, str):
            return text.encode("utf-8")
        text.decode("utf-8")
        return text
    except UnicodeError as error:
        raise VocabError(
            f"the text is not valid UTF-8 ({error}); decode it first with the right encoding"
        ) from error
