"""What a factory of drafters holds for an engine: made with its context, freed at its end."""

from __future__ import annotations

from pytreellama.context.context import Context
from pytreellama.draft import DrafterFactory, HoldsContext, NeedsContext


def attach(factory: DrafterFactory, context: Context) -> None:
    """Give a new context to a factory that needs it; closes the context if that raises."""
    if isinstance(factory, NeedsContext):
        try:
            factory.attach(context)
        except BaseException:
            context.close()
            raise


def detach(factory: DrafterFactory, context: Context) -> None:
    """Free what a factory holds for a context."""
    if isinstance(factory, HoldsContext):
        factory.detach(context)
