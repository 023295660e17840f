"""From options to a finished generation: prompt, model, engine, streamed text."""

from __future__ import annotations

import sys
from collections.abc import Callable, Generator
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pytreellama.cli.options import GenerationOptions
from pytreellama.cli.output import ProgressBar
from pytreellama.errors import RequestError
from pytreellama.text_files import limited_text

if TYPE_CHECKING:
    from pytreellama.draft import DrafterSpec
    from pytreellama.engine import Chunk, Completion, Engine, Step
    from pytreellama.engine.prompts import Prompt
    from pytreellama.model.model import Model
    from pytreellama.sampling.params import SamplingParams

OnText = Callable[[str], None]
OnStep = Callable[["Step"], None]


def read_prompt(options: GenerationOptions) -> Prompt:
    """The prompt of the arguments or stdin: text, or chat messages.

    Raises:
        RequestError: there is none, it is not UTF-8, or a system's message is given to a text.
    """
    if options.system is not None and not options.chat:
        raise RequestError(
            "--system gives a chat its system's message; add --chat, or leave it out"
        )
    is_argument = options.prompt is not None and options.prompt != "-"
    text = options.prompt if is_argument else _read_stdin(is_asked_for=options.prompt == "-")
    assert text is not None
    if not options.chat:
        return text
    system = [] if options.system is None else [{"role": "system", "content": options.system}]
    return [*system, {"role": "user", "content": text}]


def _read_stdin(is_asked_for: bool) -> str:
    stdin = sys.stdin
    if stdin is None or (stdin.isatty() and not is_asked_for):
        raise RequestError(
            "there is no prompt: give it as an argument, as in `pytreellama generate 'Once upon'`, "
            "or through a pipe"
        )
    try:
        text = limited_text(stdin.buffer, "the prompt on stdin")
    except UnicodeDecodeError as error:
        raise RequestError(f"the prompt on stdin is not UTF-8 text: {error}") from error
    # the line break that echo and editors put at the end of a text is not part of it
    text = text[:-1].removesuffix("\r") if text.endswith("\n") else text
    if not text:
        raise RequestError("there is no prompt: stdin is empty")
    return text


def load_model(path: Path | None, n_gpu_layers: int = -1, drafter: str = "none") -> Model:
    """Load a model, by default the one that comes by itself; with a bar if it takes long.

    Args:
        drafter: what it is loaded for: NextN layers are loaded where they are of use.
    """
    from pytreellama.draft import uses_mtp
    from pytreellama.model.model import Model

    with ProgressBar("loading the model") as bar:
        if path is None:
            return Model.default(n_gpu_layers=n_gpu_layers, progress=bar.report)
        load_mtp = uses_mtp(drafter)
        return Model(path, n_gpu_layers=n_gpu_layers, load_mtp=load_mtp, progress=bar.report)


def open_engine(
    model: Model, options: GenerationOptions, drafter: DrafterSpec | None = None
) -> Engine:
    """The engine that the options describe; ``drafter`` replaces theirs."""
    from pytreellama.engine import Engine

    return Engine(
        model,
        options.drafter if drafter is None else drafter,
        n_draft=options.n_draft,
        n_ctx=options.n_ctx,
        n_threads=options.threads,
    )


def check_drafter(name: str) -> None:
    """Raise ``DraftError`` for an unknown drafter, before a model is loaded for it."""
    from pytreellama.draft import drafter_factory

    drafter_factory(name)


def run(
    engine: Engine,
    prompt: Prompt,
    options: GenerationOptions,
    sampling: SamplingParams,
    *,
    on_text: OnText | None = None,
    on_step: OnStep | None = None,
) -> Completion:
    """Generate, hand over the text as it comes, and return all of it."""
    with ProgressBar("reading the prompt") as bar:
        stream = engine.stream(
            prompt,
            max_tokens=options.max_tokens,
            stop=options.stop or (),
            ignore_eos=options.ignore_eos,
            on_step=on_step,
            on_prefill=bar.report,
            **_as_keywords(sampling),
        )
        # an interrupted stream must let go of the cache before the engine closes it
        with closing(stream) as chunks:
            return _collect(chunks, on_text)


def _as_keywords(sampling: SamplingParams) -> dict[str, Any]:
    return {name: getattr(sampling, name) for name in sampling.__dataclass_fields__}


def _collect(chunks: Generator[Chunk, None, None], on_text: OnText | None) -> Completion:
    from pytreellama.engine import Completion

    texts: list[str] = []
    tokens: list[int] = []
    for chunk in chunks:
        texts.append(chunk.text)
        tokens.extend(chunk.tokens)
        if on_text is not None and chunk.text:
            on_text(chunk.text)
        if chunk.finish_reason is not None:
            assert chunk.stats is not None and chunk.seed is not None
            return Completion(
                "".join(texts), tuple(tokens), chunk.finish_reason, chunk.seed, chunk.stats
            )
    raise AssertionError("the stream ended without a finish reason")


def completion_dict(completion: Completion) -> dict[str, Any]:
    """A completion for JSON."""
    return {
        "text": completion.text,
        "tokens": list(completion.tokens),
        "finish_reason": completion.finish_reason,
        "seed": completion.seed,
        "stats": completion.stats.to_dict(),
    }
