"""`holdfast check`: judge a stored history again, without a database."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from . import drill_options as option
from .replay import command_of
from .terminal import notes, results, write_json
from .verdicts import check_installed, exit_code_for, json_of, show

if TYPE_CHECKING:
    from ..drills.checkers import Limits

__all__ = ["check", "limits_of"]


def check(
    history: Annotated[
        list[Path], typer.Argument(help="Files, or folders whose *.jsonl files are meant. Together they are one run.")
    ],
    output: Annotated[
        Path | None,
        typer.Option("--output", metavar="FOLDER", help="Write the report there: HTML, Markdown and JSON."),
    ] = None,
    elle: option.Elle = None,
    as_json: option.AsJson = False,
) -> None:
    """Run the checkers on the history of a drill, and nothing else: no server, no clock, the same answer every time."""
    check_installed()
    from ..drills import checkers
    from ..drills.elle import export
    from ..drills.history import History
    from ..drills.report import Report, run_of, write_report

    read = History.load(history)
    run = run_of(read, checkers.check(read, limits_of(read.meta)))
    settings = run.meta.get("settings")
    command = run.meta.get("command") or (command_of(settings) if isinstance(settings, Mapping) else "")
    report = Report((run,), command, {run.name: ", ".join(str(path) for path in history)})
    files = None if output is None else write_report(report, output)
    if elle is not None:
        count = export(read, elle)
        notes().print(f"{count} operations for Elle: {elle}", soft_wrap=True, markup=False)
    if as_json:
        write_json(json_of({str(run.meta.get("workload", "")): (report, files)}))
    else:
        show(results(), report, files)
    raise typer.Exit(exit_code_for([report.validity]))


def limits_of(meta: Mapping[str, Any]) -> Limits:
    """What the drill had to keep, by its own account: the same limits that its runner judged by."""
    from ..drills.checkers import Limits

    settings = meta.get("settings")
    workers = settings.get("workers") if isinstance(settings, Mapping) else None
    standard = Limits()
    return Limits(
        pool_max=meta.get("pool_max"),
        retry_floor_per_second=float(workers) if workers else standard.retry_floor_per_second,
    )
