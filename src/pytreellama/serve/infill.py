"""Prompts of fill-in-the-middle, for `suffix` and `/infill`."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

from pytreellama.serve.errors import APIError
from pytreellama.serve.service import Service


def infill_prompt(
    service: Service,
    prefix: str,
    suffix: str,
    files: Sequence[tuple[str, str]] = (),
    *,
    param: str | None = None,
) -> list[int]:
    """Token ids of a prompt whose answer stands between a prefix and a suffix.

    Args:
        files: names and contents of other files.
        param: the field that asks for it.

    Raises:
        APIError: the model has no tokens for it, or the texts are too long.
    """
    vocab = service.engine.engine.vocab
    if vocab.infill_tokens is None:
        raise APIError(
            400,
            "this model does not fill in the middle: its vocabulary has no tokens for a prefix, a "
            "suffix and a middle; leave the suffix out, or serve a model that was trained for it, "
            "such as Qwen2.5-Coder",
            param=param,
        )
    service.text_limit.check_bytes(prefix, suffix, *(text for file in files for text in file))
    encode = partial(vocab.encode, add_special=False)
    ids = vocab.infill_tokens.prompt(encode, prefix, suffix, files)
    if vocab.adds_bos and vocab.bos is not None:
        ids.insert(0, vocab.bos)
    service.text_limit.check_tokens(ids)
    return ids
