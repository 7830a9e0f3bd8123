"""What stands at the end of `holdfast drill` and `holdfast check`: verdicts, the sentence that matters, where the report lies."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from ..errors import MissingExtra
from .terminal import ExitCode

if TYPE_CHECKING:
    from ..drills.report import Report, ReportFiles
    from ..drills.verdict import Verdict

__all__ = ["SCHEMA", "check_installed", "exit_code_for", "json_of", "show"]

SCHEMA = "holdfast.drill/1"
"""The name of the shape that `--json` writes; each of its reports says its own."""

_STYLES = {"valid": "green", "invalid": "bold red", "unknown": "yellow"}
_NEEDED = ("sqlalchemy", "psutil", "jinja2", "pymysql", "psycopg")


def check_installed() -> None:
    """Whether drills can run here.

    Raises:
        MissingExtra: something of the extra `drills` is missing.
    """
    missing = [name for name in _NEEDED if find_spec(name) is None]
    if missing:
        raise MissingExtra(f"drills need {', '.join(missing)}: pip install 'holdfast[drills]'")


def exit_code_for(validities: Iterable[str]) -> ExitCode:
    """What the shell is told of several verdicts: the worst of them."""
    answers = set(validities)
    if "invalid" in answers:
        return ExitCode.INVALID
    return ExitCode.VALID if answers == {"valid"} else ExitCode.UNKNOWN


def json_of(reports: Mapping[str, tuple[Report, ReportFiles | None]], **said: Any) -> dict[str, Any]:
    """What `--json` writes: the verdict on the whole, and each report with the paths of its files.

    Args:
        reports: by workload; without files where none were written.
        said: what else there is to say, such as `seed`.
    """
    from ..drills.report import json_document

    documents = []
    for workload, (report, files) in reports.items():
        paths = {} if files is None else {"html": files.html, "markdown": files.markdown, "json": files.json}
        told = {name: str(path) for name, path in paths.items()}
        documents.append({"workload": workload, "files": told, **json_document(report)})
    code = exit_code_for(report.validity for report, _ in reports.values())
    return {"schema": SCHEMA, "verdict": code.name.lower(), "exit_code": int(code), **said, "reports": documents}


def show(console: Console, report: Report, files: ReportFiles | None = None) -> None:
    """Print one report as a person at a terminal needs it: verdicts, sentence, paths, command."""
    from ..drills.report import headline
    from ..drills.report.wording import GLYPHS

    said = headline(report)
    style = _STYLES[report.validity.value]
    console.print()
    console.print(Text.assemble((f"{GLYPHS[report.validity]} {said.title}", style)), soft_wrap=True)
    console.print(Text(said.sentence), soft_wrap=True)
    console.print()
    console.print(Padding(_table(report), (0, 0, 1, 0)))
    if files is not None:
        console.print(Text.assemble(("report  ", "dim"), str(files.html)), soft_wrap=True)
    if report.command:
        console.print(Text.assemble(("again   ", "dim"), report.command), soft_wrap=True)


def _table(report: Report) -> Table:
    from ..drills.report.digest import checks
    from ..drills.report.wording import checker_title

    table = Table(box=None, pad_edge=False, show_edge=False, padding=(0, 3, 0, 0), header_style="dim")
    table.add_column("check", no_wrap=True)
    several = len(report.runs) > 1
    for run in report.runs:
        table.add_column(run.name if several else "verdict", no_wrap=True)
    if not several:
        table.add_column("why", overflow="fold")
    for checker, verdicts in checks(report):
        row = [Text(checker_title(checker)), *(_answer(verdict) for verdict in verdicts)]
        if not several:
            row.append(Text(verdicts[0].reason if verdicts[0] else ""))
        table.add_row(*row)
    return table


def _answer(verdict: Verdict | None) -> Text:
    from ..drills.report.wording import GLYPHS

    if verdict is None:
        return Text("")
    return Text(f"{GLYPHS[verdict.valid]} {verdict.valid.value}", style=_STYLES[verdict.valid.value])
