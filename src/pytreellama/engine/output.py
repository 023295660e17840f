"""Output: what one request has generated, as tokens, text and log-probabilities."""

from __future__ import annotations

from pytreellama.chat.reply.message import Reply, ReplyDelta, joined
from pytreellama.chat.reply.reader import ReplyReader
from pytreellama.engine.completion import Chunk, Completion, FinishReason, Stats, TokenLogp
from pytreellama.engine.request import Request
from pytreellama.engine.stop_strings import StopStrings
from pytreellama.model.vocab import Detokenizer, Vocab


class Output:
    """Detokenises generated tokens, looks for stop strings, and cuts the text into chunks.

    Args:
        request: its ``stop`` and ``logprobs`` are used.
        vocab: the vocabulary of the tokens.

    Attributes:
        tokens: generated token ids, end tokens left out.
        logprobs: one for each of ``tokens`` if the request asked for them, otherwise empty.
    """

    def __init__(self, request: Request, vocab: Vocab) -> None:
        self.tokens: list[int] = []
        self.logprobs: list[TokenLogp] = []
        self._has_logprobs = request.logprobs is not None
        self._reader = None if request.reply is None else ReplyReader(request.reply)
        shown = frozenset[int]() if request.reply is None else request.reply.shown_tokens
        self._detokenizer = Detokenizer(vocab, special=shown)
        self._stops = StopStrings(request.stop)
        self._text: list[str] = []
        self._new_text: list[str] = []
        self._deltas: list[ReplyDelta] = []
        self._new_deltas: list[ReplyDelta] = []
        self._n_chunked = 0

    def append(self, token: int, logp: TokenLogp | None = None) -> bool:
        """Add a verified token that is not an end token; True if it completes a stop string."""
        self.tokens.append(token)
        if logp is not None:
            self.logprobs.append(logp)
        self._write(self._stops.push(self._detokenizer.add((token,))))
        return self._stops.found is not None

    def finish(self) -> None:
        """End the text: release what was held back, unless a stop string was found."""
        if self._stops.found is None:
            self._write(self._stops.push(self._detokenizer.finish()) + self._stops.finish())
        if self._reader is not None:
            self._add_deltas(self._reader.finish())

    def take_chunk(self, reason: FinishReason | None, stats: Stats, seed: int) -> Chunk:
        """Text and tokens since the last call.

        Args:
            reason: why the output ended; None while it goes on. The chunk then has neither
                ``stats`` nor ``seed``.
        """
        text = "".join(self._new_text)
        begin = self._n_chunked
        tokens = tuple(self.tokens[begin:])
        logprobs = tuple(self.logprobs[begin:]) if self._has_logprobs else None
        deltas = tuple(joined(self._new_deltas))
        self._new_text.clear()
        self._new_deltas.clear()
        self._n_chunked = len(self.tokens)
        if reason is None:
            return Chunk(text, tokens, logprobs, deltas=deltas)
        return Chunk(text, tokens, logprobs, reason, stats, seed, self._stops.found, deltas)

    def completion(self, reason: FinishReason, stats: Stats, seed: int) -> Completion:
        """The whole output, once it has ended."""
        logprobs = tuple(self.logprobs) if self._has_logprobs else None
        reply = None if self._reader is None else Reply.of(self._deltas)
        text, tokens = "".join(self._text), tuple(self.tokens)
        return Completion(text, tokens, reason, seed, stats, logprobs, self._stops.found, reply)

    def _write(self, text: str) -> None:
        self._text.append(text)
        self._new_text.append(text)
        if self._reader is not None and text:
            self._add_deltas(self._reader.push(text))

    def _add_deltas(self, deltas: list[ReplyDelta]) -> None:
        self._deltas += deltas
        self._new_deltas += deltas
