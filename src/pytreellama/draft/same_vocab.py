"""Whether two models mean the same by a token id."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pytreellama.errors import DraftError

if TYPE_CHECKING:
    from pytreellama.model.vocab import Vocab

_HINT = "draft with a model of the same family, or with this one requantised smaller"


def check_same_vocab(target: Vocab, draft: Vocab) -> None:
    """Raise DraftError unless every token id that both vocabularies have means the same in both.

    Compared are the bytes of each token, special tokens written out, and which ids begin a text
    (BOS), end it (EOS), and end a generation (EOG). One vocabulary may be longer, as where a model
    pads its output matrix: then the ids beyond the shorter one are not compared, and must not be
    drafted. Vocabularies without a tokenizer must have the same size, for want of anything else.

    Costs about 0.1 s for two vocabularies of 250,000 tokens, once for each: what is compared stays
    with the vocabulary.
    """
    if target.has_text != draft.has_text:
        with_text, without = ("target", "draft") if target.has_text else ("draft", "target")
        raise DraftError(
            f"the {with_text} model has a tokenizer and the {without} model has none, so nobody "
            f"can tell whether their token ids mean the same; {_HINT}"
        )
    if not target.has_text:
        _check_sizes(target, draft)
        return
    _check_pieces(target, draft)
    _check_special("BOS", target.bos, draft.bos)
    _check_special("EOS", target.eos, draft.eos)
    _check_end_tokens(target, draft)


def _check_sizes(target: Vocab, draft: Vocab) -> None:
    if target.n_tokens != draft.n_tokens:
        raise DraftError(
            f"the target model has {target.n_tokens} tokens, the draft model {draft.n_tokens}, and "
            f"neither has a tokenizer to compare them by; {_HINT}"
        )


def _check_pieces(target: Vocab, draft: Vocab) -> None:
    n_common = min(target.n_tokens, draft.n_tokens)
    pieces, draft_pieces = target.pieces[:n_common], draft.pieces[:n_common]
    if pieces == draft_pieces:
        return
    pairs = enumerate(zip(pieces, draft_pieces, strict=True))
    token, (piece, draft_piece) = next((i, pair) for i, pair in pairs if pair[0] != pair[1])
    raise DraftError(
        f"token {token} is {piece!r} to the target model and {draft_piece!r} to the draft model "
        f"(of {target.n_tokens} and {draft.n_tokens} tokens); {_HINT}"
    )


def _check_special(name: str, token: int | None, draft_token: int | None) -> None:
    if token != draft_token:
        raise DraftError(
            f"{_named(name, token)} in the target model, {_named(name, draft_token)} in the draft "
            f"model; {_HINT}"
        )


def _named(name: str, token: int | None) -> str:
    return f"there is no {name} token" if token is None else f"the {name} token is {token}"


def _check_end_tokens(target: Vocab, draft: Vocab) -> None:
    n_common = min(target.n_tokens, draft.n_tokens)
    only_one_s = [token for token in target.eog_tokens ^ draft.eog_tokens if token < n_common]
    if only_one_s:
        token = min(only_one_s)
        ends, goes_on = ("target", "draft")[:: 1 if token in target.eog_tokens else -1]
        raise DraftError(
            f"token {token}, {target.pieces[token]!r}, ends a generation to the {ends} model and "
            f"not to the {goes_on} model; {_HINT}"
        )
