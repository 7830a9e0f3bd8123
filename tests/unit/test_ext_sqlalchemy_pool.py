"""A connection that comes free with the deadline is nobody's who has no time left to use it."""

from __future__ import annotations

import sqlite3
from typing import Any

import pytest
from sqlalchemy import exc
from sqlalchemy.util import queue

from holdfast.deadline import within
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
