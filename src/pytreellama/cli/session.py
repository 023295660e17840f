"""From options to a finished generation: prompt, model, engine, streamed text."""

from __future__ import annotations

import sys
from collections.abc import Callable, Generator, Sequence
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pytreellama.cli.lora_flags import lora_files, lora_scales
from pytreellama.cli.options import EngineFlags, GenerationOptions
from pytreellama.cli.output import ProgressBar
from pytreellama.cli.placement_flags import PlacementFlags
from pytreellama.errors import RequestError
from pytreellama.text_files import limited_text, read_text

if TYPE_CHECKING:
    from pytreellama.draft import DrafterSpec
    from pytreellama.engine import Chunk, Completion, Engine, Step
    from pytreellama.engine.prompts import Prompt
    from pytreellama.model.model import Model
    from pytreellama.sampling.params import SamplingParams

OnText = Callable[[str], None]
OnStep = Callable[["Step"], object]


def read_prompt(options: GenerationOptions) -> Prompt:
    """The prompt of the arguments or stdin: text, or chat messages.

    Raises:
        RequestError: there is none, it is not UTF-8, or a system's message is given to a text.
    """
    if options.system is not None and not options.chat:
        raise RequestError(
            "--system gives a chat its system's message; add --chat, or leave it out"
        )
    text = _prompt_text(options)
    if not options.chat:
        return text
    system = [] if options.system is None else [{"role": "system", "content": options.system}]
    return [*system, {"role": "user", "content": text}]


def _prompt_text(options: GenerationOptions) -> str:
    given = [one for one in (options.prompt, options.prompt_option) if one is not None]
    if len(given) + (options.file is not None) > 1:
        raise RequestError("give one prompt: as an argument, by --prompt, or by --file")
    if options.file is not None:
        return _without_line_break(read_text(options.file, "--file"))
    return given_text(given[0] if given else None)


def given_text(argument: str | None) -> str:
    """The text of an argument, or of stdin where it is ``-`` or missing.

    Raises:
        RequestError: there is none, or it is not UTF-8.
    """
    if argument is not None and argument != "-":
        return argument
    return _read_stdin(is_asked_for=argument == "-")


def _without_line_break(text: str) -> str:
    """The line break that echo and editors put at the end of a text is not part of it."""
    return text[:-1].removesuffix("\r") if text.endswith("\n") else text


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
    text = _without_line_break(text)
    if not text:
        raise RequestError("there is no prompt: stdin is empty")
    return text


def load_model(
    source: Path | None, placement: PlacementFlags | None = None, drafter: str = "none"
) -> Model:
    """Load a model, by default the one that comes by itself; with a bar if it takes long.

    Args:
        source: as ``source_path``, though command lines make a path of it.
        placement: which GPUs hold it; by default all of it is on all of them.
        drafter: what it is loaded for: NextN layers are loaded where they are of use.
    """
    from pytreellama.draft import uses_mtp
    from pytreellama.model.model import Model

    path, load_mtp = model_path(source), uses_mtp(drafter)
    placed = {} if placement is None else placement.model_options()
    with ProgressBar("loading the model") as bar:
        return Model(path, **placed, load_mtp=load_mtp, progress=bar.report)


def load_quietly(path: Path, placement: PlacementFlags, drafter: str) -> Model:
    """As ``load_model`` of a file, without a bar: for a server that answers meanwhile."""
    from pytreellama.draft import uses_mtp
    from pytreellama.model.model import Model

    return Model(path, **placement.model_options(), load_mtp=uses_mtp(drafter))


def load_vocab(source: Path | None) -> Model:
    """Load a model without its weights: its vocabulary alone."""
    from pytreellama.model.model import Model

    return Model(model_path(source), vocab_only=True)


def model_path(source: Path | None) -> Path:
    """Path of a model's file, as ``source_path``, of which command lines make a path."""
    from pytreellama.model.source import source_path

    return source_path(None if source is None else source.as_posix())


def open_engine(
    model: Model, options: EngineFlags, drafter: DrafterSpec | None = None, **more: Any
) -> Engine:
    """The engine that the options describe.

    Args:
        drafter: replaces theirs.
        more: further arguments of ``Engine``.
    """
    from pytreellama.engine import Engine

    engine = Engine(
        model,
        options.drafter_spec if drafter is None else drafter,
        n_draft=options.n_draft,
        n_ctx=options.n_ctx,
        n_threads=options.threads,
        lora=lora_files(options.lora),
        **more,
    )
    return with_scales(engine, options.lora)


def with_scales(engine: Engine, given: Sequence[str] | None) -> Engine:
    """The engine with the scales of ``--lora``; closed if they are invalid."""
    try:
        engine.lora_scales = lora_scales(given)
    except BaseException:
        engine.close()
        raise
    return engine


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
            max_tokens=options.token_limit,
            stop=options.stop or (),
            ignore_eos=options.ignore_eos,
            on_step=on_step,
            on_prefill=bar.report,
            **as_keywords(sampling),
        )
        # an interrupted stream must let go of the cache before the engine closes it
        with closing(stream) as chunks:
            return _collect(chunks, on_text)


def as_keywords(sampling: SamplingParams) -> dict[str, Any]:
    """Sampling parameters as options of a request."""
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
