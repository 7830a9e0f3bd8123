"""The adaptive limit of a database, in front of every attempt. On SQLite alone: none of this depends on the server."""

from __future__ import annotations

import asyncio
import contextlib
import contextvars
import threading
from pathlib import Path
from typing import Any, Literal

import pytest
from sqlalchemy.orm.exc import StaleDataError

from holdfast.adaptive import AdaptiveLimit
from holdfast.deadline import within
from holdfast.errors import ConfigurationError, HoldfastError, LoadShed, report_of
from holdfast.events import BreakerChanged, CallShed, LimitChanged
from holdfast.ext.sqlalchemy import AsyncDatabase, Database, DatabaseSettings, PoolSettings
from holdfast.ext.sqlalchemy.unit import Unit
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


# -- whose time it was that ran out ------------------------------------------------------------------------------------


def giving(deadline: float) -> DatabaseSettings:
    """A limit of four, and so long for an operation."""
    return DatabaseSettings(limit="on", pool=PoolSettings(size=4, open_max=4), deadline=deadline)


async def for_ever(_session: Any) -> None:
    """What a slow server does to an operation: it gets no answer."""
    await asyncio.Event().wait()


@pytest.mark.parametrize(("own", "given", "falls"), [(10.0, 0.05, False), (0.3, 10.0, True), (0.5, 0.45, True)])
async def test_a_callers_short_deadline_does_not_shrink_the_limit_for_all(
    tmp_path: Path, own: float, given: float, falls: bool
) -> None:
    """Running out of time is the server's doing only if there was half of what the database itself gives, or more."""
    stream, heard = EventStream(), list[Event]()
    stream.subscribe(heard.append)
    async with AsyncDatabase(f"sqlite:///{tmp_path / 'limit.db'}", giving(own), events=stream) as db:
        await db.migrate(Base.metadata)
        with within(given), pytest.raises(HoldfastError):
            await db.run(for_ever)
    assert [type(event) for event in heard if isinstance(event, LimitChanged)] == [LimitChanged] * falls


@pytest.mark.parametrize(("own", "given", "counts"), [(10.0, 0.02, False), (0.02, 10.0, True)])
def test_waiting_in_vain_for_a_connection_counts_by_the_same_rule(
    tmp_path: Path, own: float, given: float, counts: bool
) -> None:
    """For the limit: whoever gives no time to wait proves nothing of the server. A full pool tells the breaker nothing."""
    stream, heard = EventStream(), list[Event]()
    stream.subscribe(heard.append)
    with Database(f"sqlite:///{tmp_path / 'limit.db'}", giving(own), events=stream) as db:
        db.migrate(Base.metadata)
        with contextlib.ExitStack() as stack:
            for _ in range(4):
                stack.enter_context(contextvars.copy_context().run(db.engine.connect))
            for _ in range(25):
                with within(given), pytest.raises(HoldfastError):
                    db.save(User(username="nobody", age=1))
    changed = {type(event) for event in heard}
    assert (LimitChanged in changed, BreakerChanged in changed) == (counts, False)


def test_whoever_waits_for_the_next_attempt_holds_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What was the connection of the last one may be another operation's by now: an interrupt must not end its session."""
    calls, discarded = list[None](), list[object]()
    acquire = AdaptiveLimit.acquire

    def loses(_session: Any) -> None:
        raise StaleDataError

    def interrupted(self: AdaptiveLimit, **options: Any) -> Any:
        calls.append(None)
        if len(calls) == 2:
            raise KeyboardInterrupt
        return acquire(self, **options)

    with Database(f"sqlite:///{tmp_path / 'limit.db'}", settings("on")) as db:
        db.migrate(Base.metadata)
        monkeypatch.setattr(AdaptiveLimit, "acquire", interrupted)
        monkeypatch.setattr(Unit, "discard", lambda self, *_arguments, **_options: discarded.append(self))
        with pytest.raises(KeyboardInterrupt):
            db.run(loses)
    assert len(calls) == 2
    assert discarded == []
