"""How long a process waited for a processor: counted by the kernel, told as spans of time."""

from __future__ import annotations

from pathlib import Path

from holdfast.drills.starvation import Starvation, waits_of_threads
from holdfast.testing import ManualClock

MS = 1_000_000


def test_what_was_waited_between_two_looks_is_told_once() -> None:
    """A span says from when to when, and how long of it; trifles, and looks without any, are left out."""
    clock = ManualClock(start=10.0)
    waits = {"1": 500 * MS}
    starvation = Starvation(lambda: dict(waits), clock)
    clock.advance(0.1)
    waits["1"] += 60 * MS
    starvation.look()
    clock.advance(0.1)
    waits["1"] += 1 * MS
    starvation.look()
    clock.advance(0.1)
    assert starvation.take() == [(10_000 * MS, 10_100 * MS, 60 * MS)]
    assert starvation.take() == []


def test_threads_come_and_go() -> None:
    """A new one counts from its beginning, one that has gone takes nothing back, and side by side the longest wait counts."""
    clock = ManualClock(start=10.0)
    waits = {"1": 0, "2": 900 * MS}
    starvation = Starvation(lambda: dict(waits), clock)
    del waits["2"]
    waits["3"] = 30 * MS
    clock.advance(0.1)
    starvation.look()
    waits |= {"1": 70 * MS, "3": 110 * MS}
    clock.advance(0.1)
    assert [waited for _, _, waited in starvation.take()] == [30 * MS, 80 * MS]


def test_the_kernels_count_is_read(tmp_path: Path) -> None:
    """The second number of each thread's `schedstat`; whatever cannot be read is left out, and elsewhere there is nothing."""
    for name, text in (("11", "7 250 3\n"), ("12", "torn")):
        (tmp_path / name).mkdir()
        (tmp_path / name / "schedstat").write_text(text)
    (tmp_path / "13").mkdir()
    assert waits_of_threads(tmp_path) == {"11": 250}
    assert waits_of_threads(tmp_path / "none") == {}
