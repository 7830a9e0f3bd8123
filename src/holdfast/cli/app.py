"""The commands, and what they have in common: `--version`, one clear line for every error, exit codes.

A command is a function in a module of its own, and stands in `COMMANDS` under its name. All these modules are imported at every
start. So at their top they import the core, typer and rich alone, and everything else inside the function: `holdfast
explain` works where SQLAlchemy is not installed. A command answers with `typer.Exit(ExitCode...)` and raises what it cannot do as
an error of `holdfast.errors`.
"""

from __future__ import annotations

import sys
import traceback
from collections.abc import Callable, Mapping, Sequence
from importlib.metadata import version
from typing import Annotated, Any

import typer
from rich.markup import escape
from typer.core import TyperGroup

from ..errors import HoldfastError
from .check import check
from .doctor import doctor
from .drill import drill
from .explain import explain
from .terminal import ExitCode, notes

__all__ = ["COMMANDS", "CommandGroup", "app", "run"]

COMMANDS: Mapping[str, Callable[..., None]] = {
    "drill": drill,
    "check": check,
    "doctor": doctor,
    "explain": explain,
}
"""Each command by its name, in the order in which the help lists them."""


class CommandGroup(TyperGroup):
    """Keeps the commands in their order and turns an error of Holdfast into one line on stderr and exit code 2."""

    def invoke(self, ctx: Any) -> Any:
        """Run the command that was asked for.

        Raises:
            typer.Exit: with `ExitCode.USAGE`, after the error was told.
        """
        try:
            return super().invoke(ctx)
        except HoldfastError as error:
            notes().print(f"[bold red]holdfast:[/] {escape(str(error))}", soft_wrap=True)
            raise typer.Exit(ExitCode.USAGE) from None


app = typer.Typer(
    name="holdfast",
    cls=CommandGroup,
    help="Saves that hold: drills, checks and explanations.",
    epilog="Exit codes: 0 valid, 1 invalid, 2 usage or setup, 3 unknown.",
    add_completion=False,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode="rich",
    context_settings={"help_option_names": ["-h", "--help"]},
)


def _show_version(asked: bool) -> None:
    if asked:
        print(f"holdfast {version('holdfast')}")
        raise typer.Exit


@app.callback()
def _holdfast(
    _version: Annotated[
        bool, typer.Option("--version", callback=_show_version, is_eager=True, help="Show the version and end.")
    ] = False,
) -> None:
    pass


for _name, _command in COMMANDS.items():
    app.command(_name)(_command)


def run(arguments: Sequence[str] | None = None) -> int:
    """Run one command and say how it ended; a defect shows its traceback and is never mistaken for a verdict.

    Args:
        arguments: what stands behind `holdfast` on the command line; default `sys.argv[1:]`.

    Returns:
        An `ExitCode`, or 130 after Ctrl-C.
    """
    try:
        app(None if arguments is None else list(arguments), prog_name="holdfast")
    except SystemExit as end:
        return end.code if isinstance(end.code, int) else int(end.code is not None)
    except Exception:
        traceback.print_exc(file=sys.stderr)
        return ExitCode.USAGE
    return ExitCode.VALID
