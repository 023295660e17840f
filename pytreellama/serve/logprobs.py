"""Log-probabilities of written tokens, in the newer form of chats and the older one of texts."""

from __future__ import annotations

from collections.abc import Sequence

from pytreellama.core.vocab import Vocab
from pytreellama.engine import TokenLogp
from pytreellama.serve.answers import ChatLogprobs, TextLogprobs, TokenLogprob, TopLogprob

_LEAST = -9999.0  # what OpenAI gives for next to nothing; JSON has no infinity


def chat_logprobs(vocab: Vocab, logps: Sequence[TokenLogp]) -> ChatLogprobs:
    """In the form of `/v1/chat/completions`."""
    return ChatLogprobs(content=[_token(vocab, one) for one in logps])


def text_logprobs(vocab: Vocab, logps: Sequence[TokenLogp], offset: int) -> TextLogprobs:
    """In the form of `/v1/completions`; ``offset``: characters of the text before these tokens."""
    texts = [vocab.piece_text(one.token) for one in logps]
    offsets = []
    for text in texts:
        offsets.append(offset)
        offset += len(text)
    has_top = any(one.top for one in logps)
    return TextLogprobs(
        tokens=texts,
        token_logprobs=[_finite(one.logp) for one in logps],
        top_logprobs=[_top(vocab, one) for one in logps] if has_top else None,
        text_offset=offsets,
    )


def _top(vocab: Vocab, one: TokenLogp) -> dict[str, float]:
    return {vocab.piece_text(token): _finite(logp) for token, logp in one.top}


def _token(vocab: Vocab, one: TokenLogp) -> TokenLogprob:
    own = _top_logprob(vocab, one.token, one.logp)
    return TokenLogprob(
        token=own.token,
        logprob=own.logprob,
        bytes=own.bytes,
        top_logprobs=[_top_logprob(vocab, token, logp) for token, logp in one.top],
    )


def _top_logprob(vocab: Vocab, token: int, logp: float) -> TopLogprob:
    piece = vocab.piece(token, special=True)
    return TopLogprob(token=vocab.piece_text(token), logprob=_finite(logp), bytes=list(piece))


def _finite(logp: float) -> float:
    return max(logp, _LEAST)
