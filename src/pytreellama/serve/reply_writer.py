"""DeltaWriter: replies of the engine in the form of OpenAI's messages and deltas."""

from __future__ import annotations

from collections.abc import Sequence

from pytreellama.engine import Reply, ReplyCall, ReplyDelta
from pytreellama.engine.completion import FinishReason
from pytreellama.serve.answers import (
    AnswerCall,
    AnswerMessage,
    CalledFunction,
    Delta,
    DeltaCall,
    DeltaFunction,
    Finish,
    new_id,
)
from pytreellama.serve.request_queue import finish_of


def answer_message(reply: Reply) -> AnswerMessage:
    """A whole reply."""
    message = AnswerMessage(content=reply.content)
    if reply.reasoning:
        message.reasoning_content = reply.reasoning
    if reply.tool_calls:
        message.content = reply.content or None
        message.tool_calls = [_answer_call(call) for call in reply.tool_calls]
    return message


def finish_of_reply(reply: Reply, reason: FinishReason) -> Finish:
    """Why a reply ended: one that was cut in a call has come to its limit, as any other."""
    calls = reply.tool_calls
    return "tool_calls" if calls and calls[-1].is_whole else finish_of(reason)


class DeltaWriter:
    """Writes the deltas of one streamed reply."""

    def __init__(self) -> None:
        self._ends_with_call = False

    def write(self, deltas: Sequence[ReplyDelta]) -> Delta:
        """What a chunk brings."""
        content = "".join(delta.content for delta in deltas)
        reasoning = "".join(delta.reasoning for delta in deltas)
        written = Delta(content=content or None, reasoning_content=reasoning or None)
        calls = [delta.call for delta in deltas if delta.call is not None]
        if calls:
            self._ends_with_call = calls[-1].is_whole
        said = [call for call in calls if call.name is not None or call.arguments]
        if said:
            written.tool_calls = [
                DeltaCall(
                    index=call.index,
                    id=None if call.name is None else call.id or new_id("call"),
                    type=None if call.name is None else "function",
                    function=DeltaFunction(name=call.name, arguments=call.arguments),
                )
                for call in said
            ]
        return written

    def finish(self, reason: FinishReason) -> Finish:
        """As ``finish_of_reply``, behind the last chunk."""
        return "tool_calls" if self._ends_with_call else finish_of(reason)


def _answer_call(call: ReplyCall) -> AnswerCall:
    function = CalledFunction(name=call.name, arguments=call.arguments)
    return AnswerCall(id=call.id or new_id("call"), function=function)
