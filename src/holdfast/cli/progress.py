"""What a drill shows while it runs: a table that stays in place on a terminal, a line now and then elsewhere.

All of it goes to stderr, so that stdout holds the result alone. How a `Progress` is drawn is pure.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from types import TracebackType
from typing import TYPE_CHECKING, Protocol, Self

from rich.console import Console, Group
from rich.live import Live
from rich.markup import escape
from rich.table import Table
from rich.text import Text

if TYPE_CHECKING:
    from ..drills.run import Progress

__all__ = ["Display", "PlainDisplay", "TerminalDisplay", "display_for", "line", "sparkline", "table"]

_BARS = " ▁▂▃▄▅▆▇█"
_LINE_EVERY_S = 5.0
_HISTORY = 60


class Display(Protocol):
    """Where progress goes; used as a context manager around one run."""

    def show(self, progress: Progress) -> None:
        """Show how the drill stands; called about once a second, from one thread."""

    def __enter__(self) -> Self: ...

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None
    ) -> None: ...


def display_for(console: Console, title: str, environment: Mapping[str, str] = os.environ) -> Display:
    """A table in place for a person at a terminal; lines for a file, a pipe, or a build (`CI`, `TERM=dumb`)."""
    moving = console.is_terminal and not console.is_dumb_terminal and not environment.get("CI")
    return TerminalDisplay(console, title) if moving else PlainDisplay(console, title)


class PlainDisplay:
    """A line every five seconds, and one whenever the phase changes."""

    def __init__(self, console: Console, title: str) -> None:
        self._console = console
        self._title = title
        self._phase = ""
        self._next_s = 0.0

    def show(self, progress: Progress) -> None:
        """Print the line, if one is due."""
        if progress.phase != self._phase or progress.elapsed_s >= self._next_s:
            self._phase, self._next_s = progress.phase, progress.elapsed_s + _LINE_EVERY_S
            self._console.print(escape(f"{self._title}: {line(progress)}"), soft_wrap=True)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        pass


class TerminalDisplay:
    """A table that is redrawn in place, and goes when the run is over: what it said stands in the report."""

    def __init__(self, console: Console, title: str) -> None:
        self._title = title
        self._goodput: list[float] = []
        self._last_s = -1
        self._live = Live(console=console, refresh_per_second=8, transient=True)

    def show(self, progress: Progress) -> None:
        """Redraw the table."""
        if int(progress.elapsed_s) != self._last_s:
            self._last_s = int(progress.elapsed_s)
            self._goodput = [*self._goodput, progress.goodput_per_s][-_HISTORY:]
        self._live.update(table(self._title, progress, self._goodput))

    def __enter__(self) -> Self:
        self._live.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        self._live.stop()


def line(progress: Progress) -> str:
    """One line for a log."""
    broken = f", broken: {', '.join(progress.faults)}" if progress.faults else ""
    unsent = f"{progress.unsent:,} not sent, " if progress.unsent else ""
    return (
        f"{progress.phase}, {progress.left_s:.0f} s left, {progress.goodput_per_s:,.0f}/s acknowledged, {progress.ok:,} done, "
        f"{progress.failed:,} not done, {progress.unknown:,} unknown, {unsent}faults so far {progress.faults_begun:,}{broken}"
    )


def sparkline(values: Sequence[float]) -> str:
    """The values as a row of bars, the highest as the fullest."""
    highest = max(values, default=0.0)
    return "".join(_BARS[round(value / highest * (len(_BARS) - 1))] if highest > 0 else _BARS[0] for value in values)


def table(title: str, progress: Progress, goodput: Sequence[float]) -> Group:
    """What a terminal shows: the title, the figures, and the goodput of the last minute."""
    figures = Table.grid(padding=(0, 3))
    figures.add_column(style="dim")
    figures.add_column(justify="right")
    figures.add_column(style="dim")
    figures.add_column()
    done = progress.ok + progress.failed + progress.unknown
    attempts = f"{progress.attempts / done:.2f} each" if done and progress.attempts else ""
    broken = Text(", ".join(progress.faults), style="bold yellow") if progress.faults else Text("nothing", style="dim")
    figures.add_row(
        "goodput", f"{progress.goodput_per_s:,.0f}/s", "last minute", Text(sparkline(goodput), style="blue")
    )
    figures.add_row("acknowledged", f"{progress.ok:,}", "attempts", attempts)
    figures.add_row("not done", f"{progress.failed:,}", "faults so far", f"{progress.faults_begun:,}")
    figures.add_row("unknown", f"{progress.unknown:,}", "broken now", broken)
    if progress.unsent:
        figures.add_row("not sent", f"{progress.unsent:,}", "", Text("no caller was free in time", style="dim"))
    heading = Text.assemble((title, "bold"), f"  {progress.phase}, {max(progress.left_s, 0):.0f} s left")
    return Group(heading, figures)
