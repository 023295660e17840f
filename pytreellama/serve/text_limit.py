"""TextLimit: how long a text may be, in tokens and, before it is tokenized, in bytes."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property

from pytreellama.core.vocab import Vocab
from pytreellama.engine import Engine
from pytreellama.serve.faults import Fault


class TextLimit:
    """Encodes texts that fit into an engine's context, and refuses all others as early as it can.

    Args:
        engine: whose context must hold the text and at least one token of an answer.
    """

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self.n_tokens = engine.context.n_text_max
        """Tokens of the longest text, the answer included."""

    def encode(self, prompt: str | Sequence[int]) -> list[int]:
        """Token ids of a prompt.

        Raises:
            Fault: it leaves no room for an answer.
            VocabError, RequestError: no ids can be made of it.
        """
        if isinstance(prompt, str):
            self.check_bytes(prompt)
        else:
            self.check_tokens(prompt)
        ids = self._engine.encode_prompt(prompt)
        self.check_tokens(ids)
        return ids

    def encode_continuation(self, text: str | Sequence[int]) -> list[int]:
        """Token ids of a text that goes on from a prompt; raises as ``encode``."""
        if isinstance(text, str):
            self.check_bytes(text)
            text = self._engine.vocab.encode_continuation(text)
        self.check_tokens(text)
        return list(text)

    def check_tokens(self, prompt: Sequence[int]) -> None:
        """Raise Fault for a prompt that leaves no room for an answer."""
        if len(prompt) >= self.n_tokens:
            raise self._fault(f"the prompt has {len(prompt)} tokens")

    def check_bytes(self, *texts: str) -> None:
        """Raise Fault for texts that together have more bytes than any tokens in the context.

        It takes no longer than to count them, so it comes before templates and tokenizers.
        """
        n_most = self._n_bytes_max
        if sum(map(len, texts)) > n_most or sum(map(_n_bytes, texts)) > n_most:
            raise self._fault(
                f"the prompt has {sum(map(_n_bytes, texts))} bytes, which are more than "
                f"{self.n_tokens} tokens of this model can stand for"
            )

    @cached_property
    def _n_bytes_max(self) -> int:
        return self.n_tokens * longest_piece(self._engine.vocab)

    def _fault(self, what: str) -> Fault:
        # clients tell this fault from others by "maximum context length is"
        return Fault(
            400,
            f"{what}, and this server's maximum context length is {self.n_tokens} tokens, for the "
            "prompt and the answer; shorten it, or serve with a larger --n-ctx",
            code="context_length_exceeded",
        )


def longest_piece(vocab: Vocab) -> int:
    """Bytes of the longest token."""
    return max(map(len, vocab.pieces))


def _n_bytes(text: str) -> int:
    return len(text.encode("utf-8", "surrogatepass"))
