"""The demo on the screen: progress while it runs, then a table and the sentences that sum it up."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from decimal import Decimal
from types import TracebackType
from typing import Any, Self

from rich import box
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn
from rich.table import Table
from rich.text import Text

from .client import Answer
from .process import Conditions
from .traffic import Request
from .truth import Result

__all__ = ["LATENCY_AIM", "SUCCESS_AIM", "Screen", "introduction", "summary", "table"]

PLAIN, OURS = "unprotected", "Holdfast"
SUCCESS_AIM = 0.9999
LATENCY_AIM = 1.125


class Screen:
    """A line of progress for each service."""

    def __init__(self, console: Console, ways: list[str], requests: int) -> None:
        self._progress = Progress(
            TextColumn("{task.description}"),
            BarColumn(bar_width=40),
            MofNCompleteColumn(),
            TextColumn("[green]{task.fields[acknowledged]} saved[/]  [red]{task.fields[failed]} failed[/]"),
            console=console,
        )
        width = max(map(len, ways))
        self._counts = {way: [0, 0] for way in ways}
        self._tasks: dict[str, TaskID] = {
            way: self._progress.add_task(f"{way:<{width}}", total=requests, acknowledged=0, failed=0) for way in ways
        }

    def answered(self, way: str, answer: Answer) -> None:
        """A request has been answered."""
        self._counts[way][not answer.acknowledged] += 1
        acknowledged, failed = self._counts[way]
        self._progress.update(self._tasks[way], advance=1, acknowledged=acknowledged, failed=failed)

    def __enter__(self) -> Self:
        self._progress.start()
        return self

    def __exit__(
        self, exc_type: type[BaseException] | None, exc: BaseException | None, tb: TracebackType | None
    ) -> None:
        self._progress.stop()


def introduction(traffic: Sequence[Request], rate: float, conditions: Conditions) -> str:
    """What is about to happen, so that nobody has to guess what the figures mean."""
    transfers = sum(request.amount > 0 for request in traffic)
    return (
        f"\n[bold]{len(traffic)} saves[/] ({len(traffic) - transfers} users, {transfers} transfers), {rate:g} a second, sent to "
        f"three services that differ only in how they run a transaction. No client asks twice.\n\n"
        f"[bold]{conditions.share:.0%} of all attempts are hit[/], in equal parts: a conflict with another transaction; the "
        f"connection lost before COMMIT; the connection lost after COMMIT was applied; {conditions.slow * 1000:.0f} ms of delay. "
        f"A request meets the same in all three. Each also takes {conditions.work * 1000:.0f} ms for work outside its "
        f"transaction.\n"
    )


def table(results: Mapping[str, Result], met: Mapping[str, Mapping[str, Any]]) -> Table:
    """What became of the saves: a column for each service."""
    shown = Table(box=box.SIMPLE_HEAD, pad_edge=False, header_style="bold")
    shown.add_column("")
    for way in results:
        shown.add_column(way, justify="right", style="bold" if way == OURS else "")
    plain = results[PLAIN]
    rows: dict[str, Callable[[Result], Text | str]] = {
        "acknowledged": lambda result: f"{result.acknowledged} of {result.requests}",
        "success rate": lambda result: _success(result.success),
        "lost: acknowledged, but not there": lambda result: _none_wanted(result.lost),
        "doubled: saved more than once": lambda result: _none_wanted(result.doubled),
        "told that it failed, but saved": lambda result: _none_wanted(result.denied),
        "money moved unknown to its sender": lambda result: _none_wanted(result.excess, " EUR"),
        "books balance": lambda result: Text("yes", "green") if result.balanced else Text("NO", "bold red"),
        "mean latency": lambda result: f"{result.mean_s * 1000:.0f} ms",
        f"  times {PLAIN}": lambda result: f"{result.mean_s / plain.mean_s:.3f}",
        "99th percentile of latency": lambda result: f"{result.p99_s * 1000:.0f} ms",
    }
    for name, cell in rows.items():
        shown.add_row(name, *(cell(result) for result in results.values()))
    shown.add_row("attempts", *(str(each["attempts"]) for each in met.values()), style="dim")
    shown.add_row("  hit by a fault", *(str(sum(each["hits"].values())) for each in met.values()), style="dim")
    return shown


def _none_wanted(number: float | Decimal, unit: str = "") -> Text:
    return Text(f"{number:,}{unit}", "bold red" if number else "green")


def _success(share: float) -> Text:
    # Rounded down: one failure in a million must not look like none.
    if share < SUCCESS_AIM:
        return Text(f"{math.floor(share * 10_000) / 100:.2f}%", "red")
    return Text(f"{math.floor(share * 1e6) / 1e4:g}%", "green")


def summary(results: Mapping[str, Result]) -> list[str]:
    """The table in words."""
    plain, ours = results[PLAIN], results[OURS]
    said = [_sentence(way, result) for way, result in results.items()]
    ratio = ours.mean_s / plain.mean_s
    verdict = "within" if ratio <= LATENCY_AIM else "above"
    said.append(f"Holdfast took {ratio:.3f} times the unprotected mean latency, {verdict} the aim of {LATENCY_AIM}.")
    needed = round(3 / (1 - SUCCESS_AIM))
    if ours.success == 1 and ours.requests < needed:
        # The rule of three: if none of n failed, then with 95 % confidence fewer than 3 of n do.
        said.append(
            f"{ours.requests} saves without a failure prove a success rate above {1 - 3 / ours.requests:.1%}; to prove "
            f"{SUCCESS_AIM:.2%}, run it with --requests {needed}."
        )
    return said


def _sentence(way: str, result: Result) -> str:
    name = way[0].upper() + way[1:]
    failed = result.requests - result.acknowledged
    wrongs = [
        f"{result.denied} of them were saved all the same" if result.denied else "",
        f"{result.doubled} were saved more than once" if result.doubled else "",
        f"{result.lost} that were acknowledged are not there" if result.lost else "",
    ]
    told = f"{name} told {failed} callers that it failed" if failed else f"{name} acknowledged every save"
    return "; ".join([told, *filter(None, wrongs)]) + (
        "." if any(wrongs) or failed else ", and made each of them exactly once."
    )
