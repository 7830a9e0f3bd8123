"""The adaptive limit of a database, in front of every attempt. On SQLite alone: none of this depends on the server."""

from __future__ import annotations

import asyncio
import threading
from pathlib import Path
from typing import Any, Literal

import pytest

from holdfast.errors import ConfigurationError, LoadShed, report_of
from holdfast.events import CallShed
from holdfast.ext.sqlalchemy import AsyncDatabase, Database, DatabaseSettings, PoolSettings
from holdfast.stream import Event, EventStream
from tests.contract.faces import Base, User, usernames


def settings(mode: Literal["off", "dark", "on"]) -> DatabaseSettings:
    """One attempt at a time, one in the queue."""
    return DatabaseSettings(limit=mode, pool=PoolSettings(size=1, open_max=1))


def test_beyond_the_limit_a_caller_is_refused_at_once_with_a_time_to_come_again(tmp_path: Path) -> None:
    """What does not fit is shed before it waits for a connection, is not retried here, and nothing of it was applied."""
    entered, leave = threading.Event(), threading.Event()
    with Database(f"sqlite:///{tmp_path / 'limit.db'}", settings("on")) as db:
        db.migrate(Base.metadata)

        def hold(session: Any) -> None:
            session.add(User(username="first", age=1))
            entered.set()
            leave.wait(30)

        holder = threading.Thread(target=db.run, args=(hold,))
        holder.start()
        entered.wait(30)
        with pytest.raises(LoadShed) as caught:
            db.save(User(username="second", age=1))
        leave.set()
        holder.join()

        report = report_of(caught.value)
        assert report is not None
        assert report.attempts == 1
        assert caught.value.retry_after_s is not None
        assert db.save(User(username="third", age=1)).id
        assert db.read(usernames) == ["first", "third"]


async def test_a_dark_limit_tells_and_lets_everybody_in(tmp_path: Path) -> None:
    """Before it is switched on one can see whom it would have refused."""
    stream, heard = EventStream(), list[Event]()
    stream.subscribe(heard.append)
    async with AsyncDatabase(f"sqlite:///{tmp_path / 'limit.db'}", settings("dark"), events=stream) as db:
        await db.migrate(Base.metadata)
        await asyncio.gather(*(db.save(User(username=f"user {n}", age=1)) for n in range(5)))

    assert any(isinstance(event, CallShed) and event.dark for event in heard)


def test_an_unknown_mode_is_refused() -> None:
    """A typing error must not switch the limit off."""
    with pytest.raises(ConfigurationError, match="'off', 'dark' or 'on'"):
        DatabaseSettings(limit="of")  # type: ignore[arg-type]
