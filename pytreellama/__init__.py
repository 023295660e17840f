"""Tree-based parallel decoding for any GGUF model. The shortest use::

    import pytreellama as ptl

    engine = ptl.Engine(ptl.Model.default())
    print(engine.generate("Once upon a time", max_tokens=64).text)

Names are imported when they are first used.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from pytreellama import draft as draft
    from pytreellama.core.batch import Batch as Batch
    from pytreellama.core.chat import ChatTemplate as ChatTemplate
    from pytreellama.core.context import Context as Context
    from pytreellama.core.model import Model as Model
    from pytreellama.core.params import ContextParams as ContextParams
    from pytreellama.core.quantize import quantize as quantize
    from pytreellama.core.sampler import Sampler as Sampler
    from pytreellama.core.sampling import SamplingParams as SamplingParams
    from pytreellama.core.tree_encoding import TreeEncoding as TreeEncoding
    from pytreellama.core.vocab import Detokenizer as Detokenizer
    from pytreellama.core.vocab import Vocab as Vocab
    from pytreellama.engine import AsyncEngine as AsyncEngine
    from pytreellama.engine import Chunk as Chunk
    from pytreellama.engine import Completion as Completion
    from pytreellama.engine import Engine as Engine
    from pytreellama.engine import Generation as Generation
    from pytreellama.engine import Score as Score
    from pytreellama.engine import Stats as Stats
    from pytreellama.engine import Step as Step
    from pytreellama.engine import TokenLogp as TokenLogp
    from pytreellama.errors import PyTreeLlamaError as PyTreeLlamaError
    from pytreellama.tree import TokenTree as TokenTree

__version__ = "0.1.0"

# Names are imported when they are first used: trees and drafters work without a native build,
# and `import pytreellama` costs nothing.
_HOMES = {
    "AsyncEngine": "engine",
    "Batch": "core.batch",
    "ChatTemplate": "core.chat",
    "Chunk": "engine",
    "Completion": "engine",
    "Context": "core.context",
    "ContextParams": "core.params",
    "Detokenizer": "core.vocab",
    "Engine": "engine",
    "Generation": "engine",
    "Model": "core.model",
    "PyTreeLlamaError": "errors",
    "Sampler": "core.sampler",
    "SamplingParams": "core.sampling",
    "Score": "engine",
    "Stats": "engine",
    "Step": "engine",
    "TokenLogp": "engine",
    "TokenTree": "tree",
    "TreeEncoding": "core.tree_encoding",
    "Vocab": "core.vocab",
    "quantize": "core.quantize",
}

__all__ = [*_HOMES, "draft"]


def __getattr__(name: str) -> Any:
    if name == "draft":
        return import_module("pytreellama.draft")
    if name not in _HOMES:
        raise AttributeError(f"module 'pytreellama' has no attribute {name!r}")
    value = getattr(import_module(f"pytreellama.{_HOMES[name]}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
