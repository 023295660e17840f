"""What holds for each architecture: trees or chains, and whether bits depend on the pass.

    python bench/architectures.py [--json] [--page docs/models.md] [--threads N] [KIND ...]

Runs tiny models of random weights (``tests/tiny_architectures``), each in a process of its own,
because an assertion of llama.cpp ends the process. For each: a text of 600 tokens in passes of
several widths against steps of one token, each node of a tree against its path alone, and both
next to other texts in the cache against a context of its own.
``--page`` writes the table of the documentation.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import tempfile
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lib.report import ROOT, Figure, publish, shown
from pytreellama import Context, ContextParams, Model, TokenTree
from pytreellama.context.encoder_context import EncoderContext
from pytreellama.errors import ContextError, PyTreeLlamaError

sys.path.insert(0, str(ROOT / "tests"))

N_TEXT = 600
PARENTS = [-1, 0, 0, 1, 1, 2, 3, 3, 5, 6]
TOKENS = [40, 41, 42, 41, 43, 41, 44, 45, 46, 47]
HEADER = """# Models

Which architectures evaluate trees, and whether a token's logits depend on the rest of its pass.
`python bench/architectures.py --page docs/models.md` writes this page from tiny models of random
weights, run on a CPU.

* *Trees*: draft nodes with branches, in one pass. *Chains*: drafts without branches, of which a
  part is rolled back. *Plain*: nothing is drafted, because each chain would cost a copy of the
  state through host memory. After a stroke, what is drafted where trees on states do not reach,
  as on a GPU; measured on the CPU.
* *Exact*: measured at {n_text} tokens, to the last bit: prefill in one pass against single steps,
  each node of a tree against its path alone, and next to other texts in the cache against a
  context of its own. Of encoders: texts that share a pass against each in a pass of its own.

Encoders embed texts and rank them (`Engine.embed`, `Engine.rank`, [engine.md](engine.md)), and
generate none. Architectures that are not listed and keep a KV cache alone behave as `llama` does.
`--drafter mtp` drafts with the MTP head of a file ([drafters.md](drafters.md)).

| architecture | memory | drafts | exact | carries |
|---|---|---|---|---|
"""


@dataclass(frozen=True)
class Facts:
    """What holds for a kind of model.

    Attributes:
        drafts: "trees", "chains" or "plain", and after a stroke the same where trees do not reach;
            of an encoder "embeds"; or "".
        is_promised: what ``is_batch_invariant`` of its context says.
        is_exact: what was measured; with ``is_promised`` it must hold.
        refusal: why it generates no text, or what went wrong.
    """

    architecture: str
    memory: str
    carries: str = ""
    drafts: str = ""
    is_promised: bool = False
    is_exact: bool = False
    refusal: str = ""


# -- one model


def facts_of(path: Path, kind: str, carries: str, n_threads: int) -> Facts:
    from beside_others import changes

    with Model(path) as model:
        name = model.architecture + _variant(kind)
        memory = "hybrid" if model.is_hybrid else "state" if model.is_recurrent else "KV cache"
        if model.is_encoder:
            return Facts(name, "none", carries, "embeds", *_encoder_exactness(model, n_threads))
        if not model.can_generate:
            return Facts(name, "", carries, refusal=str(model.refusal))
        with Context(model, n_ctx=1024, n_seq_max=2, n_threads=n_threads) as context:
            drafts: str = context.draft_shape
            if drafts == "trees" and memory != "KV cache":
                drafts += f" / {_without_trees(model, n_threads)}"
            is_promised = context.is_batch_invariant
            is_exact = _is_exact(context)
        is_exact = is_exact and not any(changes(model, N_TEXT)["changes"].values())
        return Facts(name, memory, carries, drafts, is_promised, is_exact)


def _encoder_exactness(model: Model, n_threads: int) -> tuple[bool, bool]:
    """Whether texts that share a pass are promised to have the bits of one alone, and have them."""
    rng = np.random.default_rng(1)
    texts = [rng.integers(3, 250, n, dtype=np.int32) for n in (N_TEXT, 5, 100, 64, 1, 130)]
    params = ContextParams(n_ctx=1024, n_threads=n_threads)
    with EncoderContext(model, params) as context:
        together = context.encode(texts)
        alone = [context.encode([text])[0] for text in texts]
        is_exact = all((a == b).all() for a, b in zip(together, alone, strict=True))
        return context.is_batch_invariant, is_exact


def _without_trees(model: Model, n_threads: int) -> str:
    try:
        with Context(model, n_ctx=1024, n_threads=n_threads, n_rs_seq=8) as context:
            return context.draft_shape
    except ContextError:
        return "plain"


def _variant(kind: str) -> str:
    _, hyphen, variant = kind.rpartition("-")
    return f" ({variant})" if hyphen and variant in ("swa", "mrope") else ""


def _is_exact(context: Context) -> bool:
    text = np.random.default_rng(1).integers(3, 250, N_TEXT, dtype=np.int32)
    seq = context.prefill(text[: N_TEXT - 40])
    one_pass = context.decode(TokenTree.chain(text[-40:-20]), seq=seq).logits
    context.commit(seq, range(20))
    context.prefill(text[-20:], seq, logits=True)
    at_once = context.outputs.logits[0]
    context.sequences.free(seq)
    seq = context.prefill(text[: N_TEXT - 200])
    steps = [context.decode(int(token), seq=seq).logits[0] for token in text[-200:]]
    same = bool((one_pass == np.array(steps[-40:-20])).all() and (at_once == steps[-1]).all())
    context.sequences.free(seq)
    return same and (not context.can_branch or _is_tree_exact(context, text[:100]))


def _is_tree_exact(context: Context, text: NDArray[Any]) -> bool:
    seq = context.prefill(text)
    state = context.memory.save(seq)
    rows = context.decode(TokenTree(TOKENS, PARENTS), seq=seq).logits
    context.discard(seq)
    for node in range(len(TOKENS)):
        path = TokenTree(TOKENS, PARENTS).path(node)
        for at in path:
            alone = context.decode(TOKENS[at], seq=seq).logits[0]
        if (alone != rows[node]).any():
            return False
        context.sequences.free(seq)
        seq = context.sequences.new()
        context.memory.load(state, seq)
    return True


# -- all of them


def facts_in_a_child(path: Path, kind: str, carries: str, n_threads: int) -> Facts:
    """The facts, or what ended the process that looked for them."""
    reader, writer = os.pipe()
    child = os.fork()
    if child == 0:
        os.close(reader)
        os.dup2(os.open(os.devnull, os.O_WRONLY), 2)
        try:
            facts = facts_of(path, kind, carries, n_threads)
        except PyTreeLlamaError as error:
            facts = Facts(kind, "", carries, refusal=str(error)[:200])
        os.write(writer, json.dumps(asdict(facts)).encode())
        os._exit(0)
    os.close(writer)
    with os.fdopen(reader, "rb") as pipe:
        data = pipe.read()
    _, status = os.waitpid(child, 0)
    if status:
        return Facts(kind, "", carries, refusal=f"ends the process (status {status})")
    return Facts(**json.loads(data))


def page_of(found: list[Facts]) -> str:
    lines = []
    for facts in sorted(found, key=lambda one: (bool(one.refusal), one.architecture)):
        cells = (facts.memory, facts.drafts, "yes" if facts.is_exact else "no", facts.carries)
        if facts.refusal:
            cells = ("", f"refused: {facts.refusal}", "", facts.carries)
        lines.append(f"| `{facts.architecture}` | {' | '.join(cells)} |\n")
    return HEADER.format(n_text=N_TEXT) + "".join(dict.fromkeys(lines))


def main() -> None:
    import tiny_architectures
    from tiny_models import KINDS, tiny_model

    everything = [*KINDS, *tiny_architectures.KINDS]
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--page", type=Path, metavar="FILE")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("kinds", nargs="*", metavar="KIND", default=everything)
    args = parser.parse_args()
    found: dict[str, Facts] = {}
    with tempfile.TemporaryDirectory() as folder, shown("running tiny models") as progress:
        for i, kind in enumerate(args.kinds):
            carries = "MTP head" if f"{kind}-mtp" in everything else ""
            path = tiny_model(kind, folder, n_ctx_train=1024)
            found[kind] = facts_in_a_child(path, kind, carries, args.threads)
            path.unlink()
            progress((i + 1) / len(args.kinds))
    shown_kinds = [facts for kind, facts in found.items() if not kind.endswith("-mtp")]
    if args.page:
        args.page.write_text(page_of(shown_kinds), encoding="utf-8")
    running = [facts for facts in found.values() if not facts.refusal]
    decoders = [facts for facts in running if facts.drafts != "embeds"]
    broken = [facts for facts in running if facts.is_promised and not facts.is_exact]
    rows = [
        (kind, f.refusal or ", ".join((f.memory, f.drafts, _exactness(f))))
        for kind, f in found.items()
    ]
    figures = [
        Figure.at_most("kinds whose bits depend on the pass though promised", len(broken), 0),
        Figure.at_least("share of decoders with trees", _share_with(decoders, "trees"), 0.8),
        Figure.at_least(
            "share of decoders that draft", _share_with(decoders, "trees", "chains"), 0.9
        ),
        Figure.at_least("share of decoders that are exact", _share_exact(decoders), 0.9),
    ]
    publish("Architectures", rows, figures, args.json)


def _exactness(facts: Facts) -> str:
    said = "" if facts.is_promised == facts.is_exact else " (is_batch_invariant says otherwise)"
    return ("exact" if facts.is_exact else "not exact") + said


def _share_with(decoders: list[Facts], *shapes: str) -> float:
    return sum(one.drafts.startswith(shapes) for one in decoders) / max(len(decoders), 1)


def _share_exact(decoders: list[Facts]) -> float:
    return sum(one.is_exact for one in decoders) / max(len(decoders), 1)


if __name__ == "__main__":
    main()
