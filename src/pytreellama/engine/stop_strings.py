"""StopStrings: finds stop strings in text that arrives in pieces."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Sequence

from pytreellama.errors import RequestError

MAX_LENGTH = 2**16  # characters of all stop strings together: each is searched for at every step


class StopStrings:
    """Returns text until a stop string is complete; holds back what may become one.

    Args:
        stops: strings that end the text; none of them may be empty.

    Attributes:
        found: the stop string that ended the text, once there is one.

    Raises:
        RequestError: an empty one, or more than ``MAX_LENGTH`` characters of them.
    """

    def __init__(self, stops: Sequence[str]) -> None:
        if any(not stop for stop in stops):
            raise RequestError("a stop string is empty, which would end every text at once")
        n_chars = sum(map(len, stops))
        if n_chars > MAX_LENGTH:
            raise RequestError(
                f"the stop strings have {n_chars} characters together; "
                f"at most {MAX_LENGTH} are allowed"
            )
        self._stops = sorted(set(stops))
        self._n_longest = max(map(len, stops), default=0)
        self._held = ""
        self.found: str | None = None

    def push(self, text: str) -> str:
        """Add a piece and return the text that is final; sets ``found`` at a stop string."""
        if not self._stops:
            return text
        text = self._held + text
        self._held = ""
        at, stop = self._first_stop(text)
        if stop is not None:
            self.found = stop
            return text[:at]
        n_held = self._n_held(text)
        self._held = text[len(text) - n_held :]
        return text[: len(text) - n_held]

    def finish(self) -> str:
        """Return what was held back, at the end of a text without a stop string."""
        held, self._held = self._held, ""
        return held

    def _first_stop(self, text: str) -> tuple[int, str | None]:
        found = [(text.find(stop), stop) for stop in self._stops if stop in text]
        return min(found, default=(-1, None))

    def _n_held(self, text: str) -> int:
        """Length of the longest suffix of the text that is a prefix of a stop string."""
        for size in range(min(self._n_longest - 1, len(text)), 0, -1):
            end = text[-size:]
            at = bisect_left(self._stops, end)  # strings with this prefix come next in sorted order
            if at < len(self._stops) and self._stops[at].startswith(end):
                return size
        return 0
