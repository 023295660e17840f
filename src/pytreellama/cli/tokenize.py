"""``pytreellama tokenize``: the tokens of a text."""

from __future__ import annotations

from typing import Annotated

import typer

from pytreellama.cli.option import option
from pytreellama.cli.options import Debug, Json, ModelPath
from pytreellama.cli.output import print_json, stdout_console


def tokenize(
    text: Annotated[
        str | None,
        typer.Argument(
            help="The text. If '-' or missing, it is read from stdin.", show_default=False
        ),
    ] = None,
    model: ModelPath = None,
    special: Annotated[
        bool,
        option("--special/--no-special", help="Parse names of special tokens, as <|im_end|>."),
    ] = True,
    bos: Annotated[
        bool, option("--bos/--no-bos", help="Add BOS if the model's file asks for it.")
    ] = True,
    as_json: Json = False,
    debug: Debug = False,
) -> None:
    """Show the tokens of a text."""
    from pytreellama.cli.session import given_text, load_vocab

    content = given_text(text)
    with load_vocab(model) as loaded:
        ids = loaded.vocab.encode(content, add_bos=bos, add_eos=False, parse_special=special)
        pieces = [loaded.vocab.piece_text(token) for token in ids]
    if as_json:
        print_json({"tokens": ids, "pieces": pieces})
        return
    console = stdout_console()
    for token, piece in zip(ids, pieces, strict=True):
        console.print(f"{token:>8}  {piece!r}", markup=False, soft_wrap=True)
    typer.echo(f"{len(ids)} tokens", err=True)
