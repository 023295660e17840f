"""Grammars: what a token under one takes, beside another checkout's.

    python bench/grammars.py [FOLDER] [--json] [--package DIR] [--model FILE] [--steps N]

Times the constraint for grammars written here, or for all ``*.gbnf`` files of a folder, such as
llama.cpp's ``grammars``. Each is followed along a random text: the first draw of a step is refused
(then all tokens are masked) or it fits. Times of a step are the thread's own, so that a busy
machine counts less. ``--package`` measures another checkout's package, on the same texts.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lib.report import ROOT, Figure, Spread, note, publish

OWN = {
    "list": 'root ::= ("- " [^\\n]+ "\\n")+\n',
    "sum": 'root ::= term ([-+*/] term)* "=" [0-9]+ "\\n"\nterm ::= [0-9]+ | "(" root ")"\n',
    "words": 'root ::= word (" " word)* "."\nword ::= '
    + " | ".join(f'"{a}{b}{c}"' for a in "bdkt" for b in "aeio" for c in ("n", "l", "nd", "st"))
    + "\n",
    "record": 'root ::= "{" pair ("," pair)* "}"\npair ::= string ":" (string | number | root)\n'
    'string ::= "\\"" ([^"\\\\] | "\\\\" ["\\\\nt])* "\\""\nnumber ::= "-"? [0-9]+ ("." [0-9]+)?\n',
    "tails": 'root ::= [a-z]+ rest\nrest ::= "." | " " root | "," root\n',
}


@dataclass
class Cost:
    """What one grammar takes.

    Attributes:
        begin_ms: milliseconds to make a sampler, the vocabulary prepared.
        refused_ms: milliseconds of a step whose first draw is refused.
        fitting_us: microseconds of a step whose first draw fits.
        text: what was written.
    """

    begin_ms: float
    refused_ms: Spread
    fitting_us: Spread
    text: str

    def __str__(self) -> str:
        refused, fitting = self.refused_ms, self.fitting_us
        return (
            f"begins in {self.begin_ms:.2f} ms; refused {refused.median:.2f} ms, worst "
            f"{refused.largest:.2f}; fitting {fitting.median:.0f} us, worst {fitting.largest:.0f}"
        )


def main() -> None:
    options = read_options()
    grammars = OWN
    if options.folder:
        grammars = {
            path.stem: path.read_text(encoding="utf-8")
            for path in sorted(options.folder.glob("*.gbnf"))
        }
    if not grammars:
        raise SystemExit(f"no *.gbnf files in {options.folder}")
    if options.worker:
        print(json.dumps(measure(grammars, options.model, options.steps)))
        return
    results = {"here": in_process_of(options, ROOT)}
    if options.package:
        results["there"] = in_process_of(options, options.package.resolve())
    report(results, options.json)


def read_options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("folder", nargs="?", type=Path, help="a folder of *.gbnf files")
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--package", type=Path, help="another checkout, built")
    parser.add_argument("--model", type=Path, help="a GGUF file with the vocabulary to use")
    parser.add_argument("--steps", type=int, default=200, help="tokens of each text")
    parser.add_argument("--worker", action="store_true", help=argparse.SUPPRESS)
    return parser.parse_args()


def in_process_of(options: argparse.Namespace, package: Path) -> dict[str, Any]:
    note(f"measuring the package in {package}")
    command = [sys.executable, str(Path(__file__).resolve()), "--worker"]
    command += [str(options.folder.resolve())] if options.folder else []
    command += ["--model", str(options.model.resolve())] if options.model else []
    command += ["--steps", str(options.steps)]
    environment = {**os.environ, "PYTHONPATH": str(package)}
    with tempfile.TemporaryDirectory() as folder:  # not in a checkout, which Python finds first
        done = subprocess.run(
            command, cwd=folder, env=environment, stdout=subprocess.PIPE, check=True
        )
    result: dict[str, Any] = json.loads(done.stdout)
    return result


def measure(grammars: dict[str, str], model: Path | None, n_steps: int) -> dict[str, Any]:
    import pytreellama as ptl

    with ptl.Model(model, vocab_only=True) if model else ptl.Model.default(vocab_only=True) as m:
        begun_s = time.perf_counter()
        ptl.Sampler(m.vocab, ptl.SamplingParams(grammar='root ::= "a"')).close()
        first_ms = 1000 * (time.perf_counter() - begun_s)
        costs = {name: cost_of(m.vocab, text, n_steps) for name, text in grammars.items()}
        return {
            "vocabulary": m.vocab.n_tokens,
            "first_ms": first_ms,
            "costs": {name: asdict(cost) for name, cost in costs.items()},
        }


def cost_of(vocab: Any, grammar: str, n_steps: int) -> Cost:
    import pytreellama as ptl

    params = ptl.SamplingParams(grammar=grammar)
    begun_s = time.perf_counter()
    sampler = ptl.Sampler(vocab, params)
    begin_ms = 1000 * (time.perf_counter() - begun_s)
    rng = np.random.default_rng(1)
    tokens: list[int] = []
    refused_ms: list[float] = []
    fitting_us: list[float] = []
    shadow = sampler.clone()
    while len(tokens) < n_steps:
        row = row_of(vocab, rng)
        begun_s = time.thread_time()
        token = sampler.sample_row(row)
        if token != int(row.argmax()):
            refused_ms.append(1000 * (time.thread_time() - begun_s))
        if token in vocab.eog_tokens:
            sampler.reset()
            shadow.reset()
            tokens.append(token)
            continue
        row[token] = 100.0
        begun_s = time.thread_time()
        shadow.sample_row(row)
        fitting_us.append(1e6 * (time.thread_time() - begun_s))
        tokens.append(token)
    sampler.close()
    shadow.close()
    text = vocab.decode_bytes(tokens).decode("utf-8", "replace")
    return Cost(begin_ms, Spread.of(refused_ms), Spread.of(fitting_us), text[:200])


_writable: dict[int, NDArray[np.bool_]] = {}


def row_of(vocab: Any, rng: np.random.Generator) -> NDArray[np.float32]:
    """Random logits. Control tokens and parts of characters never win: what a grammar says of
    them differs between engines, and so would the texts."""
    writable = _writable.get(id(vocab))
    if writable is None:
        writable = np.array(
            [is_text(piece) and not vocab.is_control(i) for i, piece in enumerate(vocab.pieces)]
        )
        writable[list(vocab.eog_tokens)] = True
        _writable[id(vocab)] = writable
    row: NDArray[np.float32] = rng.normal(0.0, 3.0, vocab.n_tokens).astype(np.float32)
    row[~writable] = -50.0
    # where the text may not end, a draw of its end is refused
    row[list(vocab.eog_tokens)] = 50.0 if rng.random() < 0.5 else -20.0
    return row


def is_text(piece: bytes) -> bool:
    try:
        return bool(piece.decode("utf-8"))
    except UnicodeDecodeError:
        return False


def report(results: dict[str, dict[str, Any]], as_json: bool) -> None:
    here = results["here"]
    rows: list[tuple[str, Any]] = [("vocabulary", here["vocabulary"])]
    rows += [(f"first sampler {where}, ms", round(r["first_ms"])) for where, r in results.items()]
    costs = {
        where: {n: read_cost(c) for n, c in r["costs"].items()} for where, r in results.items()
    }
    for name in here["costs"]:
        rows += [(f"{name} {where}", costs[where][name]) for where in results]
    figures = [
        Figure.at_most(f"{name}: ms of the worst step", cost.refused_ms.largest, 50.0)
        for name, cost in costs["here"].items()
    ]
    if "there" in costs:
        for name, cost in costs["here"].items():
            other = costs["there"][name]
            ratio = cost.refused_ms.median / other.refused_ms.median
            figures.append(Figure.at_most(f"{name}: refused step, here / there", ratio, 1.0))
            ratio = cost.fitting_us.median / other.fitting_us.median
            figures.append(Figure.at_most(f"{name}: fitting step, here / there", ratio, 1.1))
            same = float(cost.text == other.text)
            figures.append(Figure.at_least(f"{name}: same text", same, 1.0))
    publish("grammars", rows, figures, as_json)


def read_cost(data: dict[str, Any]) -> Cost:
    spreads = {name: Spread(**data[name]) for name in ("refused_ms", "fitting_us")}
    return Cost(data["begin_ms"], text=data["text"], **spreads)


if __name__ == "__main__":
    main()
