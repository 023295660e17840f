"""What the answers of peers come to: speeds beside llama.cpp's plain decoding, and equal texts."""

from __future__ import annotations

import statistics
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace

from lib.peers.builds import PLAIN
from lib.peers.tools import NO_FLASH_ATTENTION
from lib.peers.types import Answer, Prompt
from lib.report import Figure, Spread

OURS = "pytreellama"
AUTO = f"{OURS}:auto"
FAMILIES = ("llama-server", "llama-cpp-python", "transformers")  # with a plain way of their own
N_SHOWN = 3  # fastest peers of a category

Answers = list[list[Answer]]
"""By question, then by repeat."""


@dataclass(frozen=True)
class Row:
    """One peer with one type of weights.

    Attributes:
        ratio: speed by llama.cpp's plain decoding, all questions together, repeat by repeat.
        by_category: the same for each category, with median times.
        n_different: answers that are not llama.cpp's plain ones.
        n_changed: answers that are not those of its own plain way, if it has one.
        failed: why there is nothing else.
    """

    file_type: str
    peer: str
    tokens_per_s: float = 0.0
    ratio: Spread | None = None
    by_category: dict[str, float] = field(default_factory=dict)
    n_answers: int = 0
    n_different: int = 0
    n_changed: int | None = None
    failed: str | None = None

    @property
    def name(self) -> str:
        return f"{self.file_type} {self.peer}"

    @property
    def is_ours(self) -> bool:
        return self.peer.startswith(OURS)

    @property
    def speed(self) -> float:
        return self.ratio.median if self.ratio else 0.0

    def __str__(self) -> str:
        if self.ratio is None:
            return f"failed: {self.failed}"
        spread = f"{self.ratio.smallest:.2f} to {self.ratio.largest:.2f}"
        changed = "" if self.n_changed is None else f", {self.n_changed} from its own plain"
        return (
            f"{self.speed:.2f} of llama.cpp plain ({spread}), {self.tokens_per_s:.1f} tokens/s; "
            f"{self.n_different} of {self.n_answers} texts differ{changed}"
        )


def rows_of(
    file_type: str, prompts: Sequence[Prompt], measured: dict[str, Answers | str]
) -> list[Row]:
    """A row for each peer, from its answers or the reason why there are none."""
    plain = measured[PLAIN]
    if isinstance(plain, str):
        raise SystemExit(f"{PLAIN} failed, to which all ratios are taken: {plain}")
    return [
        Row(file_type, peer, failed=answers)
        if isinstance(answers, str)
        else _row(file_type, peer, prompts, answers, plain, _own_plain(peer, measured))
        for peer, answers in measured.items()
    ]


def _row(
    file_type: str,
    peer: str,
    prompts: Sequence[Prompt],
    answers: Answers,
    plain: Answers,
    own_plain: Answers | None,
) -> Row:
    questions = range(len(prompts))
    counted = [[_counted(answer, plain[i][0]) for answer in answers[i]] for i in questions]
    categories = {
        category: [i for i in questions if prompts[i].category == category]
        for category in dict.fromkeys(prompt.category for prompt in prompts)
    }
    n_repeats = len(plain[0])
    ratios = [
        _speed([counted[i][r]] for i in questions) / _speed([plain[i][r]] for i in questions)
        for r in range(n_repeats)
    ]
    return Row(
        file_type,
        peer,
        tokens_per_s=_speed(counted),
        ratio=Spread.of(ratios),
        by_category={
            category: _speed(counted[i] for i in chosen) / _speed(plain[i] for i in chosen)
            for category, chosen in categories.items()
        },
        n_answers=len(prompts),
        n_different=_n_different(answers, plain),
        n_changed=None if own_plain is None else _n_different(answers, own_plain),
    )


def _own_plain(peer: str, measured: dict[str, Answers | str]) -> Answers | None:
    """Answers of the peer whose text this one is meant to write, if that is yet another one."""
    name = _plain_of(peer)
    found = measured.get(name)
    return found if isinstance(found, list) and name not in (peer, PLAIN) else None


def _plain_of(peer: str) -> str:
    suffix = NO_FLASH_ATTENTION if peer.endswith(NO_FLASH_ATTENTION) else ""
    family = peer.partition(":")[0]
    if family == OURS:
        return f"{OURS}:none"
    return (family if family in FAMILIES else PLAIN) + suffix


def _speed(answers: Iterable[Sequence[Answer]]) -> float:
    """Tokens a second of several questions, each with the median of its times."""
    questions = list(answers)
    n_tokens = sum(statistics.median(answer.n_timed for answer in one) for one in questions)
    return n_tokens / sum(statistics.median(answer.seconds for answer in one) for one in questions)


def _counted(answer: Answer, plain: Answer) -> Answer:
    """Without what a tool counts though it was drawn behind the end of the text."""
    n_behind = answer.n_written - plain.n_written
    if n_behind <= 0 or answer.text != plain.text:
        return answer
    return replace(answer, n_timed=answer.n_timed - n_behind, n_written=plain.n_written)


def _n_different(answers: Answers, plain: Answers) -> int:
    return sum(
        any(not _agrees(answer, theirs[0]) for answer in ours)
        for ours, theirs in zip(answers, plain, strict=True)
    )


def _agrees(answer: Answer, plain: Answer) -> bool:
    """True for the same text, or if it only goes on where the plain one had to stop."""
    if answer.n_written > plain.n_written:
        return answer.text.startswith(plain.text)
    return answer.text == plain.text


#
# ours beside the best of theirs
#


def figures_of(rows: Sequence[Row]) -> list[Figure]:
    """How ``auto`` compares with the fastest peer, by type and category."""
    auto = next(row for row in rows if row.peer == AUTO)
    theirs = [row for row in rows if row.ratio is not None and not row.is_ours]
    best = max(row.speed for row in theirs)
    figures = [_figure(f"{auto.file_type} overall", auto.speed, best)]
    for category in theirs[0].by_category:
        best = max(row.by_category[category] for row in theirs)
        speed = auto.by_category.get(category, 0.0)
        figures.append(_figure(f"{auto.file_type} {category}", speed, best))
    return figures


def _figure(where: str, speed: float, best: float) -> Figure:
    return Figure.at_least(f"{where}: auto / best peer", speed / best, 1.0)


def fastest_of(rows: Sequence[Row]) -> list[tuple[str, str]]:
    """For each category the fastest peers, behind ours."""
    measured = [row for row in rows if row.ratio is not None]
    told = []
    for category in measured[0].by_category:

        def speed(row: Row, category: str = category) -> float:
            return row.by_category[category]

        ours = [row for row in measured if row.is_ours]
        theirs = sorted((row for row in measured if not row.is_ours), key=speed, reverse=True)
        shown = [f"{row.peer} {speed(row):.2f}" for row in [*ours, *theirs[:N_SHOWN]]]
        told.append((f"{measured[0].file_type} {category}", ", ".join(shown)))
    return told
