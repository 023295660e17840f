"""Stop strings in a text that comes in pieces."""

from __future__ import annotations

from collections.abc import Sequence

from pytreellama.errors import RequestError


class StopStrings:
    """Lets text through until a stop string is complete; holds back what may become one.

    Args:
        stops: strings that end the text; none of them may be empty.
    """

    def __init__(self, stops: Sequence[str]) -> None:
        if any(not stop for stop in stops):
            raise RequestError("a stop string is empty, which would end every text at once")
        self._stops = tuple(stops)
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
        longest = max((len(stop) - 1 for stop in self._stops), default=0)
        for size in range(min(longest, len(text)), 0, -1):
            if any(stop.startswith(text[-size:]) for stop in self._stops):
                return size
        return 0
