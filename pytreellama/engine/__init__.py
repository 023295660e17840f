"""The loop: many sequences, one pass over all their trees a step."""

from pytreellama.engine.completion import Chunk, Completion, FinishReason, Stats, Step
from pytreellama.engine.engine import Engine

__all__ = ["Chunk", "Completion", "Engine", "FinishReason", "Stats", "Step"]
