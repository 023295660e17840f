"""TextLimit: how long a text may be, in tokens and, before it is tokenized, in bytes."""

from __future__ import annotations

from collections.abc import Sequence

from pytreellama.engine import Engine
from pytreellama.serve.errors import APIError


class TextLimit:
    """Encodes texts that fit into an engine's context, and refuses all others as early as it can.

    Args:
        engine: whose context must hold the text and at least one token of an answer.
    """

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self.n_tokens = engine.n_text_max
        """Tokens of the longest text, the answer included."""

    def encode(
        self, prompt: str | Sequence[int], *, add_eos: bool = False, parse_special: bool = True
    ) -> list[int]:
        """Token ids of a prompt.

        Args:
            add_eos, parse_special: as ``Engine.encode_prompt``.

        Raises:
            APIError: it leaves no room for an answer.
            VocabError, RequestError: no ids can be made of it.
        """
        if isinstance(prompt, str):
            self.check_bytes(prompt)
        else:
            self.check_tokens(prompt)
        ids = self._engine.encode_prompt(prompt, add_eos=add_eos, parse_special=parse_special)
        self.check_tokens(ids)
        return ids

    def encode_continuation(
        self, text: str | Sequence[int], *, parse_special: bool = True
    ) -> list[int]:
        """Token ids of a text that goes on from a prompt; raises as ``encode``."""
        if isinstance(text, str):
            self.check_bytes(text)
            text = self._engine.vocab.encode_continuation(text, parse_special=parse_special)
        self.check_tokens(text)
        return list(text)

    def check_tokens(self, prompt: Sequence[int]) -> None:
        """Raise APIError for a prompt that leaves no room for an answer."""
        if len(prompt) >= self.n_tokens:
            raise self._too_long(f"the prompt has {len(prompt)} tokens")

    def check_bytes(self, *texts: str) -> None:
        """Raise APIError for texts that together are too long whatever their tokens are.

        It takes no longer than to count their bytes, so it comes before templates and tokenizers.
        """
        text = "".join(texts)
        n_least = self._engine.vocab.least_tokens(text)
        if n_least >= self.n_tokens:
            n_bytes = len(_utf8(text))
            raise self._too_long(f"the prompt of {n_bytes} bytes has at least {n_least} tokens")

    def _too_long(self, what: str) -> APIError:
        # clients recognise this error by "this model's maximum context length is"
        return APIError(
            400,
            f"{what}, and this model's maximum context length is {self.n_tokens} tokens, for the "
            "prompt and the answer; shorten it, or serve with a larger --n-ctx",
            code="context_length_exceeded",
        )


def _utf8(text: str) -> bytes:
    return text.encode("utf-8", "surrogatepass")
