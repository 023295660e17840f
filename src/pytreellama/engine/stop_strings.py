"""Stop strings in a text that comes in pieces."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Sequence

from pytreellama.errors import RequestError

MAX_LENGTH = 2**16  # of all stop strings together: each is looked for at every step


class StopStrings:
    """Lets text through until a stop string is complete; holds back what may become one.

    Args:
        stops: strings that end the text; none of them may be empty.

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
        """Take a piece and return what is certain; sets ``found`` once a stop is complete."""
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
        """What was held back, when the text ends without a stop."""
        held, self._held = self._held, ""
        return held

    def _first_stop(self, text: str) -> tuple[int, str | None]:
        found = [(text.find(stop), stop) for stop in self._stops if stop in text]
        return min(found, default=(-1, None))

    def _n_held(self, text: str) -> int:
        """Length of the longest end of the text that begins a stop string."""
        for size in range(min(self._n_longest - 1, len(text)), 0, -1):
            end = text[-size:]
            at = bisect_left(self._stops, end)  # what begins with it stands from there on
            if at < len(self._stops) and self._stops[at].startswith(end):
                return size
        return 0
