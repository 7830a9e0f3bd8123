"""From a history to what a report says of it."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from holdfast.drills.checkers import check
from holdfast.drills.history import NS, History
from holdfast.drills.report import Report, html_page, json_document, markdown_text, run_of, write_report
from holdfast.drills.report.digest import tiles
from holdfast.drills.report.reading import series
from holdfast.drills.verdict import Validity, Verdict
from tests.drills.histories import Story
from tests.drills.synthetic import synthetic_history


def lines(*told: Mapping[str, Any], begin_s: float = 0) -> History:
    """Operations of one worker: each has `at`, and perhaps `took`, `late` and `answer`."""
    found: list[dict[str, Any]] = [{"type": "meta", "t": 0, "p": "runner", "v": {"rate": 5, "subject": "plain"}}]
    found.append({"type": "phase", "t": int(begin_s * NS), "p": "runner", "f": "baseline", "phase": "start"})
    for number, each in enumerate(told):
        at = int((begin_s + each["at"]) * NS)
        late = int(each.get("late", 0) * NS)
        asked = {"p": "w1", "i": number, "f": "insert"}
        value = {"id": number}
        found.append({**asked, "type": "invoke", "t": at, "v": value, "intended": at - late, "deadline": at + 2 * NS})
        if "took" in each:
            found.append({**asked, "type": each.get("answer", "ok"), "t": at + int(each["took"] * NS)})
    found.append({"type": "phase", "t": int((begin_s + 4) * NS), "p": "runner", "f": "baseline", "phase": "end"})
    return History.from_lines(sorted(found, key=lambda line: line["t"]))


def test_an_answer_counts_in_the_second_in_which_it_came() -> None:
    """Goodput is what was answered, not what was asked; the rest is told by kind."""
    history = lines(
        {"at": 0.1, "took": 0.1},
        {"at": 0.9, "took": 0.2},
        {"at": 1.2, "took": 0.1, "answer": "fail"},
        {"at": 2.1, "took": 0.1, "answer": "info"},
        {"at": 2.5},
    )
    assert [(second.ok, second.failed, second.unknown) for second in series(history)] == [
        (1, 0, 0),
        (1, 1, 0),
        (0, 0, 2),
    ]


def test_an_overload_is_told_with_the_limit_that_met_it() -> None:
    """The column says which limit it is, and the figures in front what was done, how late, and how many were turned away."""
    told = Story(subject="holdfast", limit="on").op("read", {}, at=1).fault("overload", 10, 20, overload=True)
    for second in range(10, 20):
        told.op("read", {}, at=second, took=0.5)
        told.op("read", {}, "fail", {"retry_after_s": 0.4}, at=second, error="LoadShed", attempts=1)
    history = told.history()
    run = run_of(history, check(history))
    assert run.name == "Holdfast, limit on"
    front = {tile.name: (tile.figure, tile.note) for tile in tiles(run)}
    assert front["Done in overload"] == ("1/s", "2/s were due")
    assert front["Turned away"] == ("10", "at once, with Retry-After; 0 gave up")
    assert run_of(Story(subject="plain").op("read", {}).history(), []).name == "SQLAlchemy alone"


def test_latency_is_from_the_intended_start() -> None:
    """A stall that kept operations from beginning is seen; a second without an acknowledgement has no latency."""
    first, second = series(lines({"at": 0.5, "took": 0.1, "late": 0.3}, {"at": 1.0, "took": 0.1, "answer": "fail"}))
    assert first.p99_s == pytest.approx(0.4)
    assert second.p99_s is None


def test_the_time_line_begins_with_the_first_phase() -> None:
    """Starting a server takes as long as it takes, and is no part of the drill."""
    run = run_of(lines({"at": 0.5, "took": 0.1}, begin_s=30), [])
    assert [second.ok for second in run.seconds] == [1]
    assert [(phase.start_s, phase.end_s) for phase in run.phases] == [(0.0, 4.0)]


def test_the_run_says_what_it_offered_and_allowed() -> None:
    """Rate and deadline are drawn beside what came of them."""
    run = run_of(lines({"at": 0.5, "took": 0.1, "late": 1.0}), [])
    assert (run.name, run.offered_per_s, run.deadline_s) == ("SQLAlchemy alone", 5.0, 2.0)


def test_a_whole_run_is_read() -> None:
    """Figures, faults, phases, bounds, latencies and verdicts of a minute of transfers."""
    history = synthetic_history(rate=40)
    run = run_of(history, check(history))
    assert run.validity is Validity.VALID
    assert run.figures.ok == run.figures.operations == len(history.operations)
    assert [fault.name for fault in run.faults] == ["cut-after-commit", "kill-server", "pause-server", "latency"]
    assert [phase.name for phase in run.phases] == ["baseline", "faults", "healed", "final"]
    assert {bound.name: bound.events for bound in run.bounds} == {"lost": 0, "doubled": 0, "misreported": 0}
    assert all(bound.upper == pytest.approx(3 / bound.trials) for bound in run.bounds)
    assert [latency.phase for latency in run.latencies] == ["before", "during", "after"]
    assert sum(second.ok for second in run.seconds) == run.figures.ok


def test_planted_doubles_are_in_the_report() -> None:
    """A run that doubled says so in its headline, its table and its figures."""
    history = synthetic_history(subject="tenacity", rate=40)
    report = Report((run_of(history, check(history)),), "holdfast drill")
    doubled = next(bound for bound in report.runs[0].bounds if bound.name == "doubled")
    assert doubled.events > 0
    assert f"{doubled.events} doubled" in json_document(report)["sentence"]
    assert report.validity is Validity.INVALID


def test_an_empty_history_is_reported() -> None:
    """A drill that was stopped at once has a report that says nothing was proven."""
    report = Report((run_of(History(), []),), "")
    assert report.validity is Validity.UNKNOWN
    assert "nothing was answered" in html_page(report)


def test_planted_password_is_in_no_report(tmp_path: Path) -> None:
    """Not from the meta, not from a verdict, in none of the three files."""
    meta = {"command": "holdfast drill --database mysql://app:hunter2@db1/x", "server": {"password": "hunter2"}}
    history = History(metas=({**meta, "subject": "mysql://app:hunter2@db1/x"},))
    verdict = Verdict("leaks", Validity.INVALID, "mysql://app:hunter2@db1/x", {}, ("password=hunter2",))
    run = run_of(history, [verdict])
    files = write_report(Report((run,), str(run.meta["command"])), tmp_path)
    for path in (files.html, files.markdown, files.json):
        text = path.read_text(encoding="utf-8")
        assert "hunter2" not in text
        assert "db1" in text
    assert "hunter2" not in markdown_text(Report((run,), ""))
