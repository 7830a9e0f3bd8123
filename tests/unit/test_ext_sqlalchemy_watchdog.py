"""The watchdog cuts what is due, once, and nothing that was closed before."""

from __future__ import annotations

import os
import sqlite3
import threading
from typing import Any

import pytest

from holdfast.clock import SYSTEM_CLOCK
from holdfast.dialects import Flavour
from holdfast.ext.sqlalchemy import watchdog as module
from holdfast.ext.sqlalchemy.interrupt import connection_id, cut, identify
from holdfast.ext.sqlalchemy.watchdog import Watchdog


class Standing:
    """A clock that stands still."""

    def __init__(self) -> None:
        self.now = 100.0

    def monotonic(self) -> float:
        return self.now

    def sleep(self, seconds: float) -> None:
        raise AssertionError("nothing here sleeps")

    async def sleep_async(self, seconds: float) -> None:
        raise AssertionError("nothing here sleeps")


@pytest.fixture
def cuts(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """What was cut, in order."""
    done: list[Any] = []
    monkeypatch.setattr(module, "cut", done.append)
    return done


def still(watchdog: Watchdog) -> Watchdog:
    """Without its thread: the test says when it looks."""
    watchdog._thread = threading.current_thread()
    return watchdog


def test_due_connections_are_cut_once(cuts: list[Any]) -> None:
    """What expires now or before is cut; the rest tells when to come again."""
    watchdog = still(Watchdog(Standing()))
    first, second, third = (watchdog.guard(name, at) for name, at in (("a", 101.0), ("b", 102.0), ("c", 103.0)))
    assert watchdog.fire_due(102.0) == 103.0
    assert cuts == ["a", "b"]
    assert (first.fired, second.fired, third.fired) == (True, True, False)
    assert watchdog.fire_due(102.5) == 103.0
    assert cuts == ["a", "b"]


def test_closed_guard_never_fires(cuts: list[Any]) -> None:
    """After `close` the connection belongs to somebody else."""
    watchdog = still(Watchdog(Standing()))
    guard = watchdog.guard("a", 101.0)
    assert guard.close() is False
    assert guard.close() is False
    assert watchdog.fire_due(200.0) == float("inf")
    assert cuts == []


def test_guard_tells_whether_it_fired(cuts: list[Any]) -> None:
    """Closing it says so, as often as asked."""
    watchdog = still(Watchdog(Standing()))
    with watchdog.guard("a", 101.0) as guard:
        watchdog.fire_due(101.0)
    assert guard.fired
    assert guard.close() is True


def test_what_follows_a_cut_runs_once_after_it(cuts: list[Any]) -> None:
    """`on_cut` is called after the cut, once, even where the cut repeats."""
    watchdog = still(Watchdog(Standing()))
    connection = sqlite3.connect(":memory:")
    watchdog.guard(connection, 101.0, lambda: cuts.append("told"))
    assert watchdog.fire_due(101.0) == pytest.approx(101.05)
    assert watchdog.fire_due(101.05) == pytest.approx(101.1)
    assert cuts == [connection, "told", connection]
    connection.close()


def test_closing_waits_for_a_cut_under_way(monkeypatch: pytest.MonkeyPatch) -> None:
    """A guard that fires at this very moment keeps its user until the connection is let go, and does not come back."""
    reached, go_on = threading.Event(), threading.Event()

    def slow_cut(_connection: object) -> None:
        reached.set()
        assert go_on.wait(10)

    monkeypatch.setattr(module, "cut", slow_cut)
    watchdog = still(Watchdog(Standing()))
    connection = sqlite3.connect(":memory:")
    guard = watchdog.guard(connection, 101.0)
    firing = threading.Thread(target=watchdog.fire_due, args=(101.0,))
    firing.start()
    assert reached.wait(10)
    closed: list[bool] = []
    closing = threading.Thread(target=lambda: closed.append(guard.close()))
    closing.start()
    closing.join(0.05)
    assert closed == []
    go_on.set()
    for thread in (firing, closing):
        thread.join(10)
    assert closed == [True]
    assert watchdog.fire_due(200.0) == float("inf")
    connection.close()


def test_earlier_deadline_wakes_the_thread(cuts: list[Any]) -> None:
    """A guard that expires before all others is not overslept."""
    watchdog = Watchdog()
    told = threading.Event()
    now = SYSTEM_CLOCK.monotonic()
    watchdog.guard("late", now + 3600)
    watchdog.guard("soon", now, told.set)
    assert told.wait(10)
    assert cuts == ["soon"]


@pytest.mark.skipif(not hasattr(os, "fork"), reason="there is no fork here")
@pytest.mark.filterwarnings("ignore:.*multi-threaded:DeprecationWarning")
def test_child_process_has_a_watchdog_of_its_own(cuts: list[Any]) -> None:
    """After a fork the parent's guards are not the child's, and the child's are watched."""
    watchdog = Watchdog()
    watchdog.guard("parent's", SYSTEM_CLOCK.monotonic() + 3600)
    child = os.fork()
    if child == 0:
        told = threading.Event()
        watchdog.guard("child's", SYSTEM_CLOCK.monotonic(), told.set)
        os._exit(0 if told.wait(10) and cuts == ["child's"] and len(watchdog._guards) == 0 else 1)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    assert cuts == []


def test_unknown_connections_are_let_be() -> None:
    """A driver that nobody knows has no number, no identity, and is not cut; nothing is raised."""
    assert connection_id(object()) is None
    assert identify(object(), Flavour.MYSQL) is None
    cut(object())
    closed = sqlite3.connect(":memory:")
    closed.close()
    cut(closed)
    assert connection_id(closed) is None
