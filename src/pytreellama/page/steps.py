"""A step as the page is told of it: plain values for JSON."""

from __future__ import annotations

import math
from functools import lru_cache
from itertools import repeat
from typing import TYPE_CHECKING, Any

from pytreellama.tree.labels import visible

if TYPE_CHECKING:
    from pytreellama.engine import Step
    from pytreellama.model.vocab import Vocab
    from pytreellama.tree import TokenTree

_N_PIECES = 1 << 16
_P_DIGITS, _LOGP_DIGITS = 5, 4
_S_DIGITS = 6


def step_dict(
    number: int,
    step: Step,
    vocab: Vocab,
    *,
    seconds: float | None = None,
    plain_s: float | None = None,
) -> dict[str, Any]:
    """A step for JSON; a server makes one of every step of every text, so it is cheap.

    Args:
        number: of the text's steps, from 1.
        seconds: that it took.
        plain_s: that a step of plain decoding, which brings one token, would take now.
    """
    return {
        "number": number,
        "tree": _tree_dict(step, vocab),
        "path": list(map(int, step.path)),
        "tokens": _tokens(step, vocab),
        "seconds": None if seconds is None else round(seconds, _S_DIGITS),
        "plain_s": None if plain_s is None else round(plain_s, _S_DIGITS),
    }


def _tree_dict(step: Step, vocab: Vocab) -> dict[str, Any]:
    tree = step.tree
    return {
        "texts": [token_text(vocab, token) for token in tree.tokens.tolist()],
        "parents": tree.parents.tolist(),
        "p": _path_p(tree),
        "drafters": None if step.plan is None else list(map(list, step.plan.proposers(tree))),
    }


def _path_p(tree: TokenTree) -> list[float | None] | None:
    """Of each guess; the root is text already, and nobody guessed it."""
    if tree.p is None:
        return None
    return [None, *(round(p, _P_DIGITS) for p in tree.p.tolist()[1:])]


def _tokens(step: Step, vocab: Vocab) -> list[dict[str, Any]]:
    logps = repeat(None) if step.logprobs is None else (one.logp for one in step.logprobs)
    return [
        {
            "text": token_text(vocab, token),
            # JSON has no infinity
            "logp": round(logp, _LOGP_DIGITS) if logp is not None and math.isfinite(logp) else None,
        }
        for token, logp in zip(step.tokens, logps, strict=False)
    ]


def token_text(vocab: Vocab, token: int) -> str:
    """A token's text with nothing hidden in it, as ``tree.labels.visible`` writes it."""
    return _visible_piece(vocab.piece(token, special=True))


@lru_cache(maxsize=_N_PIECES)
def _visible_piece(piece: bytes) -> str:
    return visible(piece.decode("utf-8", "replace"))
