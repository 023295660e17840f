"""Log-probabilities of written tokens, in the newer form of chats and the older one of texts."""

from __future__ import annotations

from collections.abc import Sequence

from pytreellama.engine import TokenLogp
from pytreellama.model.vocab import Detokenizer, Vocab
from pytreellama.serve.answers import ChatLogprobs, TextLogprobs, TokenLogprob, TopLogprob

_LEAST = -9999.0  # what OpenAI gives for next to nothing; JSON has no infinity


def chat_logprobs(vocab: Vocab, logps: Sequence[TokenLogp]) -> ChatLogprobs:
    """In the form of `/v1/chat/completions`."""
    return ChatLogprobs(content=[_token(vocab, one) for one in logps])


class TextLogprobWriter:
    """The form of `/v1/completions` for one text, which may come in pieces.

    Args:
        vocab: of the text's tokens.
        n_before: characters that stand before the text.
    """

    def __init__(self, vocab: Vocab, n_before: int = 0) -> None:
        self._vocab = vocab
        self._detokenizer = Detokenizer(vocab)
        self._n_read = n_before
        self._n_sent = n_before
        self._waiting: list[tuple[int, TokenLogp]] = []

    def take(self, text: str, logps: Sequence[TokenLogp], *, is_last: bool) -> TextLogprobs:
        """The tokens that begin in the text up to here, and at its end all that are left.

        A token's offset counts the characters before it. One inside of a character has that
        character's, and one that only completes a stop string has the text's end.

        Args:
            text: the next piece.
            logps: of the next tokens; a part of their text may come later.
        """
        self._n_sent += len(text)
        for one in logps:
            self._waiting.append((self._n_read, one))
            self._n_read += len(self._detokenizer.add((one.token,)))
        n_ready = len(self._waiting)
        if not is_last:
            n_ready = sum(offset < self._n_sent for offset, _ in self._waiting)
        ready, self._waiting = self._waiting[:n_ready], self._waiting[n_ready:]
        has_top = any(one.top for _, one in ready)
        return TextLogprobs(
            tokens=[name_of(self._vocab, one.token) for _, one in ready],
            token_logprobs=[finite(one.logp) for _, one in ready],
            top_logprobs=[named_top(self._vocab, one, one.top) for _, one in ready]
            if has_top
            else None,
            text_offset=[min(offset, self._n_sent) for offset, _ in ready],
        )


def named_top(vocab: Vocab, one: TokenLogp, top: Sequence[tuple[int, float]]) -> dict[str, float]:
    """The likeliest tokens, and the one that came, each under a name of its own."""
    named: dict[str, float] = {}
    is_among = any(token == one.token for token, _ in top)
    for token, logp in top if is_among else (*top, (one.token, one.logp)):
        name = name_of(vocab, token)
        # some vocabularies have a byte twice: as itself and as <0x41>
        named[f"token_id:{token}" if name in named else name] = finite(logp)
    return named


def name_of(vocab: Vocab, token: int) -> str:
    """A token's text, or as OpenAI writes it the bytes of a part of a character."""
    piece = vocab.piece(token, special=True)
    try:
        return piece.decode()
    except UnicodeDecodeError:
        return "bytes:" + "".join(f"\\x{byte:02x}" for byte in piece)


def _token(vocab: Vocab, one: TokenLogp) -> TokenLogprob:
    own = top_logprob(vocab, one.token, one.logp)
    return TokenLogprob(
        token=own.token,
        logprob=own.logprob,
        bytes=own.bytes,
        top_logprobs=[top_logprob(vocab, token, logp) for token, logp in one.top],
    )


def top_logprob(vocab: Vocab, token: int, logp: float) -> TopLogprob:
    """A token that came, or could have come."""
    piece = vocab.piece(token, special=True)
    return TopLogprob(token=vocab.piece_text(token), logprob=finite(logp), bytes=list(piece))


def finite(logp: float) -> float:
    """A log-probability that JSON can hold."""
    return max(logp, _LEAST)
