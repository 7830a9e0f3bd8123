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


def test_connection_that_comes_too_late_goes_back(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever waited for it is told that none came in time, and the next caller gets it."""
    creator: Any = lambda: sqlite3.connect(":memory:")  # noqa: E731 - SQLAlchemy's type for it has more than it needs
    pool = DeadlinePool(creator, pool_size=1, max_overflow=0, timeout=10.0)
    clock = ManualClock()
    first = pool.connect()
    really_get = pool._pool.get

    def came_back_late(block: bool = True, timeout: float | None = None) -> Any:
        if not block:
            raise queue.Empty
        monkeypatch.undo()
        first.close()
        clock.advance(2.0)
        return really_get(block=False)

    monkeypatch.setattr(pool._pool, "get", came_back_late)
    with within(1.0, clock=clock), pytest.raises(exc.TimeoutError):
        pool.connect()
    assert pool.checkedout() == 0
    with within(1.0, clock=clock), pool.connect() as again:
        assert again.is_valid
    pool.dispose()


def test_connection_that_comes_too_late_for_a_full_queue_is_closed(monkeypatch: pytest.MonkeyPatch) -> None:
    """Another one came back meanwhile and took the last place: the late one's place is given up, and not lost."""
    creator: Any = lambda: sqlite3.connect(":memory:")  # noqa: E731 - as above
    pool = DeadlinePool(creator, pool_size=1, max_overflow=1, timeout=10.0)
    clock = ManualClock()
    first, second = pool.connect(), pool.connect()
    really_get = pool._pool.get

    def came_back_late(block: bool = True, timeout: float | None = None) -> Any:
        if not block:
            raise queue.Empty
        monkeypatch.undo()
        first.close()
        clock.advance(2.0)
        taken = really_get(block=False)
        second.close()
        return taken

    monkeypatch.setattr(pool._pool, "get", came_back_late)
    with within(1.0, clock=clock), pytest.raises(exc.TimeoutError):
        pool.connect()
    assert pool.checkedout() == 0
    with within(1.0, clock=clock), pool.connect(), pool.connect():
        assert pool.checkedout() == 2
    pool.dispose()
