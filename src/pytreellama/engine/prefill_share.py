"""PrefillShare: how much of the time long prompts take from texts that are being generated."""

from __future__ import annotations

SHARE = 1 / 3
"""Of the time, for one long prompt: the time between tokens of other requests grows by half."""
N_SHORT = 512
"""Missing tokens up to which a prompt does not wait: its first token is what users wait for."""


class PrefillShare:
    """Lets long prompts have a share of the time while other requests generate.

    After a chunk of a long prompt, the next waits until decode passes have taken their share. The
    chunks stay as large as they are: small ones would read the KV cache more often.

    One long prompt has a third of the time. Where many wait, each but one has as much as a request
    that generates, so that a batch of long prompts is not held up by the first of them.
    """

    def __init__(self) -> None:
        self._owed_s = 0.0  # decode time that is due before the next long chunk

    def lets(self, n_missing: int) -> bool:
        """True if a prompt with so many missing tokens may prefill a chunk now."""
        return self._owed_s <= 0.0 or n_missing <= N_SHORT

    def spend(self, seconds: float, n_long: int, n_decoding: int) -> None:
        """Count a chunk of a long prompt.

        Args:
            n_long: number of long prompts that are being prefilled.
            n_decoding: number of requests that generate meanwhile.
        """
        share = max(SHARE, (n_long - 1) / (n_long - 1 + n_decoding)) if n_decoding else 1.0
        self._owed_s += seconds * (1 / share - 1)

    def decoded(self, seconds: float) -> None:
        """Count a step's decode passes; without any, nobody is held up, and nothing is owed."""
        self._owed_s = max(0.0, self._owed_s - seconds) if seconds > 0.0 else 0.0
