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
    from pytreellama import errors as errors
    from pytreellama import plan as plan
    from pytreellama import tree as tree
    from pytreellama import verify as verify
    from pytreellama.chat.template import ChatTemplate as ChatTemplate
    from pytreellama.context.batch import Batch as Batch
    from pytreellama.context.context import Context as Context
    from pytreellama.context.params import ContextParams as ContextParams
    from pytreellama.context.tree_encoding import TreeEncoding as TreeEncoding
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
    from pytreellama.model.model import Model as Model
    from pytreellama.model.quantize import quantize as quantize
    from pytreellama.model.vocab import Detokenizer as Detokenizer
    from pytreellama.model.vocab import Vocab as Vocab
    from pytreellama.sampling.params import SamplingParams as SamplingParams
    from pytreellama.sampling.sampler import Sampler as Sampler
    from pytreellama.tree import TokenTree as TokenTree

__version__ = "0.1.0"

# Names are imported when they are first used: trees and drafters work without a native build,
# and `import pytreellama` costs nothing.
_HOMES = {
    "AsyncEngine": "engine",
    "Batch": "context.batch",
    "ChatTemplate": "chat.template",
    "Chunk": "engine",
    "Completion": "engine",
    "Context": "context.context",
    "ContextParams": "context.params",
    "Detokenizer": "model.vocab",
    "Engine": "engine",
    "Generation": "engine",
    "Model": "model.model",
    "PyTreeLlamaError": "errors",
    "Sampler": "sampling.sampler",
    "SamplingParams": "sampling.params",
    "Score": "engine",
    "Stats": "engine",
    "Step": "engine",
    "TokenLogp": "engine",
    "TokenTree": "tree",
    "TreeEncoding": "context.tree_encoding",
    "Vocab": "model.vocab",
    "quantize": "model.quantize",
}

_MODULES = ("draft", "errors", "plan", "tree", "verify")

__all__ = [*_HOMES, *_MODULES]


def __getattr__(name: str) -> Any:
    if name in _MODULES:
        return import_module(f"pytreellama.{name}")
    if name not in _HOMES:
        raise AttributeError(f"module 'pytreellama' has no attribute {name!r}")
    value = getattr(import_module(f"pytreellama.{_HOMES[name]}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
