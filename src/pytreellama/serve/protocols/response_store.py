"""ResponseStore: the newest responses of a server, so that a client can go on from them."""

from __future__ import annotations

import json
from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass

from pytreellama.serve.errors import APIError
from pytreellama.serve.protocols.responses_answers import ResponseObject
from pytreellama.serve.protocols.responses_requests import MessageValues


@dataclass(frozen=True, slots=True)
class StoredResponse:
    """A response, and the chat up to it.

    Attributes:
        client: who may read it: a key that was accepted, or else an address.
        messages: of the chat, the response included, without instructions.
        n_chars: of the messages as JSON.
    """

    client: str
    response: ResponseObject
    messages: tuple[MessageValues, ...]
    n_chars: int


class ResponseStore:
    """Keeps responses in memory until newer ones need their place.

    Args:
        n_max: most responses.
        n_chars_max: most characters of all their chats together.
    """

    def __init__(self, n_max: int = 1024, n_chars_max: int = 1 << 25) -> None:
        self._n_max = n_max
        self._n_chars_max = n_chars_max
        self._n_chars = 0
        self._stored: OrderedDict[str, StoredResponse] = OrderedDict()

    def __len__(self) -> int:
        return len(self._stored)

    def add(self, client: str, response: ResponseObject, messages: Sequence[MessageValues]) -> None:
        """Keep a response; the oldest are forgotten for it."""
        n_chars = len(json.dumps(messages)) + len(response.model_dump_json())
        self._stored[response.id] = StoredResponse(client, response, tuple(messages), n_chars)
        self._n_chars += n_chars
        while len(self._stored) > self._n_max or self._n_chars > self._n_chars_max:
            _, oldest = self._stored.popitem(last=False)
            self._n_chars -= oldest.n_chars

    def get(self, client: str, id: str, param: str | None = None) -> StoredResponse:
        """A response of a client.

        Raises:
            APIError: there is none, or it is another client's.
        """
        stored = self._stored.get(id)
        if stored is None or stored.client != client:
            raise APIError(
                404 if param is None else 400,
                f"there is no response {id!r}: it was not stored, or newer ones took its place; "
                "send the whole conversation as input",
                param=param,
                code="previous_response_not_found" if param else "response_not_found",
            )
        return stored

    def remove(self, client: str, id: str) -> None:
        """Forget a response of a client; raises as ``get``."""
        self._n_chars -= self.get(client, id).n_chars
        del self._stored[id]
