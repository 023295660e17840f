"""``pytreellama tree``: draws the tree of every step and its accepted path."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from pytreellama.bench.facts import model_dict
from pytreellama.cli.option import option, unpacked
from pytreellama.cli.options import GenerationOptions, Json, require_writable
from pytreellama.cli.output import print_json, stdout_console
from pytreellama.files import make_folder, replaced_file, write_text

if TYPE_CHECKING:
    from rich.console import Console

    from pytreellama.engine import Step
    from pytreellama.engine.prompts import Prompt
    from pytreellama.model.vocab import Vocab


@unpacked(GenerationOptions)
def tree(
    options: GenerationOptions,
    min_nodes: Annotated[
        int,
        option(
            "--min-nodes",
            help="Show only trees with at least this many nodes; the root counts, so plain steps "
            "have one.",
            min=1,
        ),
    ] = 2,
    svg: Annotated[
        Path | None,
        option(
            "--svg",
            help="Also write each tree as step-0001.svg and so on to this directory.",
            show_default=False,
        ),
    ] = None,
    html: Annotated[
        Path | None,
        option("--html", help="Also write all steps as one HTML page.", show_default=False),
    ] = None,
    as_json: Json = False,
) -> None:
    """Generate text and draw the tree of every step, with the accepted path marked.

    With --json, the object holds all steps, regardless of --min-nodes.
    """
    from pytreellama.cli import session
    from pytreellama.page.recorder import StepRecorder

    prompt = session.read_prompt(options)
    options.check_sampling()
    session.check_drafter(options.drafter_spec)
    if html is not None:
        require_writable(html)
    if svg is not None:
        make_folder(svg)
    steps: list[Step] = []
    console = stdout_console()
    with session.load_model(options.model, options, options.drafter_spec) as model:
        vocab, sampling = model.vocab, options.sampling_for(model)

        def watch(step: Step) -> None:
            recorder.add(step)
            show(step)
            recorder.resume()

        def show(step: Step) -> None:
            steps.append(step)
            if len(step.tree) < min_nodes:
                return
            if svg is not None:
                _write_svg(svg, len(steps), step, vocab)
            if not as_json:
                _draw(console, len(steps), step, vocab)

        with session.open_engine(model, options) as engine:
            recorder = StepRecorder(engine, len(engine.encode_prompt(prompt)))
            completion = session.run(engine, prompt, options, sampling, on_step=watch)
        if html is not None:
            name = model.path.name
            _write_page(html, recorder.take(), prompt, completion.text, name, options.drafter_spec)
        if as_json:
            print_json(
                session.completion_dict(completion)
                | {
                    "model": model_dict(model),
                    "drafter": options.drafter_spec,
                    "steps": [_step_dict(i, step, vocab) for i, step in enumerate(steps, 1)],
                }
            )
            return
    n_shown = sum(len(step.tree) >= min_nodes for step in steps)
    _print_end(console, completion.text, n_shown, len(steps), min_nodes)


def label(vocab: Vocab, token: int) -> str:
    """A token's text for a drawing; bytes of half a character are escaped there."""
    return vocab.piece(token, special=True).decode("utf-8", "surrogateescape")


def _draw(console: Console, number: int, step: Step, vocab: Vocab) -> None:
    console.print(_heading(number, step), style="bold", soft_wrap=True)
    text = step.tree.to_text(
        lambda token: label(vocab, token),
        accepted=step.path,
        colour=console.is_terminal and not console.no_color,
    )
    print(text, end="\n\n", flush=True)


def _heading(number: int, step: Step) -> str:
    n_drafted, n_accepted = len(step.tree) - 1, len(step.path) - 1
    return f"step {number}: {n_accepted} of {n_drafted} draft nodes accepted"


def _write_svg(directory: Path, number: int, step: Step, vocab: Vocab) -> None:
    drawing = step.tree.to_svg(
        lambda token: label(vocab, token), accepted=step.path, title=_heading(number, step)
    )
    write_text(directory / f"step-{number:04d}.svg", drawing)


def _write_page(
    path: Path,
    steps: list[dict[str, Any]],
    prompt: Prompt,
    text: str,
    model: str,
    drafter: str,
) -> None:
    from pytreellama.page.document import static_html

    page = static_html(
        steps,
        title="Draft trees",
        model=model,
        prompt=_prompt_text(prompt),
        text=text,
        drafter=drafter,
    )
    with replaced_file(path) as file:
        file.write(page.encode("utf-8"))


def _prompt_text(prompt: Prompt) -> str:
    """The prompt as the page shows it; for a chat, the texts of all messages."""
    from pytreellama.engine import ChatPrompt

    if isinstance(prompt, (str, ChatPrompt)):
        return str(prompt)
    return "\n\n".join(part["content"] for part in prompt if isinstance(part, Mapping))


def _step_dict(number: int, step: Step, vocab: Vocab) -> dict[str, Any]:
    return {
        "step": number,
        "tree": step.tree.to_dict(),
        "texts": list(map(vocab.piece_text, step.tree.tokens.tolist())),
        "path": [int(node) for node in step.path],
        "tokens": [int(token) for token in step.tokens],
    }


def _print_end(console: Console, text: str, n_shown: int, n_steps: int, min_nodes: int) -> None:
    shown = f"{n_shown} of {n_steps} steps had a tree of at least {min_nodes} nodes. The text:"
    console.print(shown, style="bold", soft_wrap=True)
    console.print(text, markup=False, soft_wrap=True)
