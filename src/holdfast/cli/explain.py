"""`holdfast explain`: what an error code means, what the server did, and what Holdfast does about it."""

from __future__ import annotations

import sys
from typing import Annotated, Any

import typer
from rich import box
from rich.markup import escape
from rich.table import Table

from ..dialects import Flavour
from ..dialects.pasted import read_pasted
from ..dialects.prose import Explanation, describe
from ..errors import UsageError
from .terminal import ExitCode, results, write_json

__all__ = ["explain"]

_TITLES = {
    Flavour.MYSQL: "MySQL",
    Flavour.MARIADB: "MariaDB",
    Flavour.POSTGRESQL: "PostgreSQL",
    Flavour.SQLITE: "SQLite",
}
_STDIN_CHARACTERS = 1_000_000


def explain(
    what: Annotated[
        list[str],
        typer.Argument(
            help="A number, SQLSTATE or name (1205, 40001, SQLITE_BUSY), a pasted message in quotes, or - to read it from stdin.",
            show_default=False,
        ),
    ],
    flavour: Annotated[
        Flavour | None,
        typer.Option("--flavour", help="Whose code it is; default: all that know it.", show_default=False),
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="One JSON document instead of text.")] = False,
) -> None:
    """What an error code means, what the server did with the transaction, and what Holdfast does, at each stage.

    Exit codes: 0 explained, 2 no code found in the text, 3 a code that Holdfast does not know.
    """
    text = sys.stdin.read(_STDIN_CHARACTERS) if what == ["-"] else " ".join(what)
    pasted = read_pasted(text)
    if pasted.code is None:
        raise UsageError(
            "no error code in this text; give the number, the SQLSTATE or the line that the driver printed"
        )
    explanations = describe(pasted.code, pasted.flavours if flavour is None else (flavour,), pasted.message)
    if as_json:
        write_json({"code": pasted.code, "explanations": [_document(explanation) for explanation in explanations]})
    else:
        for explanation in explanations:
            _show(explanation)
    if not any(explanation.known for explanation in explanations):
        raise typer.Exit(ExitCode.UNKNOWN)


def _document(explanation: Explanation) -> dict[str, Any]:
    return {
        "flavours": [str(flavour) for flavour in explanation.flavours],
        "known": explanation.known,
        "code": explanation.code,
        "name": explanation.name,
        "meaning": explanation.meaning,
        "only_if": explanation.only_if,
        "remark": explanation.remark,
        "stages": {
            str(at.stage): {"class": str(at.failure_class), "server": at.server, "holdfast": at.holdfast}
            for at in explanation.stages
        },
    }


def _show(explanation: Explanation) -> None:
    out = results()
    whose = ", ".join(_TITLES[flavour] for flavour in explanation.flavours)
    out.print(
        f"\n[bold]{escape(f'{explanation.code} {explanation.name}'.rstrip())}[/]  [cyan]{whose}[/]", soft_wrap=True
    )
    out.print(escape(explanation.meaning), soft_wrap=True)
    if explanation.only_if is not None:
        out.print(f"[dim]if the message matches[/] {escape(explanation.only_if)}", soft_wrap=True)
    if explanation.remark:
        out.print(escape(explanation.remark), soft_wrap=True)
    table = Table(box=box.SIMPLE, pad_edge=False)
    for title in ("stage", "class", "the server", "Holdfast"):
        table.add_column(title, overflow="fold")
    before = ""
    for at in explanation.stages:
        action = "the same" if at.holdfast == before else at.holdfast
        before = at.holdfast
        table.add_row(str(at.stage), str(at.failure_class), escape(at.server), escape(action))
    out.print(table)
