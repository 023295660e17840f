"""Continuous batching: many requests, and one pass over all their trees a step."""

from pytreellama.chat.reply.message import Reply, ReplyCall, ReplyDelta
from pytreellama.engine.async_engine import AsyncEngine
from pytreellama.engine.chat_prompts import ChatPrompt
from pytreellama.engine.completion import Chunk, Completion, FinishReason, Stats, Step, TokenLogp
from pytreellama.engine.engine import Engine
from pytreellama.engine.generation import Generation
from pytreellama.engine.jobs.score import Score
from pytreellama.engine.load import Load

__all__ = [
    "AsyncEngine",
    "ChatPrompt",
    "Chunk",
    "Completion",
    "Engine",
    "FinishReason",
    "Generation",
    "Load",
    "Reply",
    "ReplyCall",
    "ReplyDelta",
    "Score",
    "Stats",
    "Step",
    "TokenLogp",
]
