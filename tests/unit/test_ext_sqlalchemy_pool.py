"""How long a connection is waited for; one that comes free with the deadline is nobody's who has no time left to use it."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from typing import Any

import pytest
from pymysql.err import OperationalError
from sqlalchemy import exc
from sqlalchemy.util import queue

from holdfast.deadline import within
from holdfast.errors import BulkheadFull
from holdfast.ext.sqlalchemy.pool import DeadlinePool
from holdfast.testing import ManualClock


def make_pool(*, overflow: int) -> DeadlinePool:
    """A pool that keeps one connection."""
    creator: Any = lambda: sqlite3.connect(":memory:")  # noqa: E731 - SQLAlchemy's type for it has more than it needs
    return DeadlinePool(creator, pool_size=1, max_overflow=overflow, timeout=10.0)


def come_back_late(
    monkeypatch: pytest.MonkeyPatch, pool: DeadlinePool, clock: ManualClock, first: Any, *others: Any
) -> None:
    """Whoever waits next gets `first` after 2 s; before he can give it back the `others` come back, too."""
    really_get = pool._pool.get

    def came_back_late(block: bool = True, timeout: float | None = None) -> Any:
        if not block:
            raise queue.Empty
        monkeypatch.undo()
        first.close()
        clock.advance(2.0)
        taken = really_get(block=False)
        for other in others:
            other.close()
        return taken

    monkeypatch.setattr(pool._pool, "get", came_back_late)


def test_connection_that_comes_too_late_goes_back(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever waited for it is told that none came in time, and the next caller gets it."""
    pool, clock = make_pool(overflow=0), ManualClock()
    come_back_late(monkeypatch, pool, clock, pool.connect())
    with within(1.0, clock=clock), pytest.raises(exc.TimeoutError):
        pool.connect()
    assert pool.checkedout() == 0
    with within(1.0, clock=clock), pool.connect() as again:
        assert again.is_valid
    pool.dispose()


def test_connection_that_comes_too_late_for_a_full_queue_is_closed(monkeypatch: pytest.MonkeyPatch) -> None:
    """Another one came back meanwhile and took the last place: the late one's place is given up, and not lost."""
    pool, clock = make_pool(overflow=1), ManualClock()
    come_back_late(monkeypatch, pool, clock, pool.connect(), pool.connect())
    with within(1.0, clock=clock), pytest.raises(exc.TimeoutError):
        pool.connect()
    assert pool.checkedout() == 0
    with within(1.0, clock=clock), pool.connect(), pool.connect():
        assert pool.checkedout() == 2
    pool.dispose()


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> ManualClock:
    """The pool's."""
    made = ManualClock()
    monkeypatch.setattr("holdfast.ext.sqlalchemy.pool.SYSTEM_CLOCK", made)
    return made


@pytest.fixture
def pool() -> Iterator[DeadlinePool]:
    """One with a single connection."""
    made = make_pool(overflow=0)
    yield made
    made.dispose()


def work(pool: DeadlinePool, clock: ManualClock, seconds: float, *, lost: bool = False) -> None:
    """A hundred times, one after the other: more than the average looks back."""
    for _ in range(100):
        connection = pool.connect()
        clock.advance(seconds)
        if lost:
            connection.invalidate()
        connection.close()


def wait_in_vain(
    monkeypatch: pytest.MonkeyPatch, pool: DeadlinePool, clock: ManualClock
) -> tuple[float, BaseException]:
    """How long somebody with ten seconds waits for the only connection, which stays in use, and what he is told."""

    def comes_back_never(block: bool = True, timeout: float | None = None) -> Any:
        clock.advance(timeout or 0.0)
        raise queue.Empty

    with pool.connect(), monkeypatch.context() as patched:
        patched.setattr(pool._pool, "get", comes_back_never)
        began = clock.monotonic()
        with within(10.0, clock=clock), pytest.raises((exc.TimeoutError, BulkheadFull)) as caught:
            pool.connect()
    return clock.monotonic() - began, caught.value


def test_nobody_waits_longer_than_what_is_left_would_do(
    monkeypatch: pytest.MonkeyPatch, pool: DeadlinePool, clock: ManualClock
) -> None:
    """Where the work takes a second, one that has less than three left would be cut off in it: he is told when to come again."""
    work(pool, clock, 1.0)
    waited_s, error = wait_in_vain(monkeypatch, pool, clock)
    assert waited_s == pytest.approx(7.0, abs=0.1)
    assert isinstance(error, BulkheadFull)
    assert error.retry_after_s == pytest.approx(1.0, abs=0.05)


def test_short_work_is_waited_for_until_shortly_before_the_deadline(
    monkeypatch: pytest.MonkeyPatch, pool: DeadlinePool, clock: ManualClock
) -> None:
    """A burst of many small operations is served to the last."""
    work(pool, clock, 0.01)
    assert wait_in_vain(monkeypatch, pool, clock)[0] == pytest.approx(9.97, abs=0.01)


@pytest.mark.parametrize("seconds", [5.0, 3600.0])
def test_everybody_may_wait_for_half_of_his_time(
    monkeypatch: pytest.MonkeyPatch, pool: DeadlinePool, clock: ManualClock, seconds: float
) -> None:
    """However long others use theirs."""
    work(pool, clock, seconds)
    assert wait_in_vain(monkeypatch, pool, clock)[0] == pytest.approx(5.0)


def test_what_was_lost_says_nothing_of_the_work(
    monkeypatch: pytest.MonkeyPatch, pool: DeadlinePool, clock: ManualClock
) -> None:
    """After an outage nobody takes the time that it took for that of the work."""
    work(pool, clock, 30.0, lost=True)
    waited_s, error = wait_in_vain(monkeypatch, pool, clock)
    assert waited_s == pytest.approx(10.0)
    assert isinstance(error, exc.TimeoutError)


def test_who_asks_again_while_a_full_server_is_being_handled_is_told_the_same(
    monkeypatch: pytest.MonkeyPatch, pool: DeadlinePool, clock: ManualClock
) -> None:
    """The refusal is the pool's, though the server's hangs behind it."""
    work(pool, clock, 1.0)
    try:
        raise OperationalError(1040, "Too many connections")
    except OperationalError:
        assert isinstance(wait_in_vain(monkeypatch, pool, clock)[1], BulkheadFull)
