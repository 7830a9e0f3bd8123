"""Injected faults: each does what it says, to one engine, for as long as it is asked to."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy
from sqlalchemy import Engine, exc, text
from sqlalchemy.ext.asyncio import AsyncSession, create_async_engine

from holdfast.dialects import classify
from holdfast.errors import ConfigurationError
from holdfast.ext.sqlalchemy import AsyncDatabase, open_endpoint
from holdfast.ext.sqlalchemy.faults import Fault, FaultPlan, SeededFaults, inject
from holdfast.outcome import FailureClass, Stage
from holdfast.testing import ManualClock

INSERT = text("INSERT INTO t VALUES (1)")
COUNT = text("SELECT COUNT(*) FROM t")


def once(fault: Fault) -> FaultPlan:
    """A plan that hits the first transaction only."""
    fates = iter([fault])
    return lambda: next(fates, None)


@pytest.fixture(params=["plain", "holdfast"])
def engine(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Engine]:
    """An engine on a SQLite file: SQLAlchemy's own, and one that Holdfast set up (it sends BEGIN IMMEDIATE)."""
    url = f"sqlite:///{tmp_path / 'faults.db'}"
    made = sqlalchemy.create_engine(url) if request.param == "plain" else open_endpoint(url).engine
    with made.begin() as connection:
        connection.execute(text("CREATE TABLE t (n INTEGER)"))
    yield made
    made.dispose()


def insert(engine: Engine) -> None:
    """One transaction."""
    with engine.begin() as connection:
        connection.execute(INSERT)


def rows(engine: Engine) -> int:
    """What is committed."""
    with engine.connect() as connection:
        return int(connection.scalar(COUNT) or 0)


@pytest.mark.parametrize(
    ("fault", "expected", "applied"),
    [
        (Fault.CONTENTION, FailureClass.CONTENTION, 0),
        (Fault.LOST_BEFORE_COMMIT, FailureClass.LOST, 0),
        (Fault.LOST_AFTER_COMMIT, FailureClass.LOST, 1),
    ],
)
def test_fault_fails_as_in_earnest(engine: Engine, fault: Fault, expected: FailureClass, applied: int) -> None:
    """SQLAlchemy raises its own error, Holdfast reads it right, and the work is applied or not as the fault says."""
    with inject(engine, once(fault)) as faults:
        with pytest.raises(exc.DBAPIError) as raised:
            insert(engine)
        assert rows(engine) == applied
        insert(engine)
    assert faults.hits == {fault: 1}
    assert classify(raised.value, stage=Stage.BODY, flavour="sqlite").failure_class is expected
    assert raised.value.connection_invalidated is (expected is FailureClass.LOST)
    assert rows(engine) == applied + 1


def test_slow_transaction_takes_longer_and_holds_no_lock(engine: Engine) -> None:
    """The delay comes before BEGIN: another connection can write meanwhile."""

    class WritingClock(ManualClock):
        def sleep(self, seconds: float, /) -> None:
            super().sleep(seconds)
            insert(engine)

    clock = WritingClock()
    with inject(engine, once(Fault.SLOW), slow=0.5, clock=clock) as faults:
        insert(engine)
    assert clock.sleeps == [0.5]
    assert faults.hits == {Fault.SLOW: 1}
    assert rows(engine) == 2


def test_every_transaction_is_drawn_once(engine: Engine) -> None:
    """One call of the plan per transaction, however many statements it has, rolled back or not, connection kept or not."""
    drawn: list[None] = []

    def plan() -> None:
        drawn.append(None)

    with inject(engine, plan), engine.connect() as connection:
        for ending in (connection.commit, connection.rollback, connection.commit):
            connection.execute(INSERT)
            connection.execute(INSERT)
            ending()
    assert len(drawn) == 3


def test_closed_injection_leaves_the_engine_as_it_was(engine: Engine) -> None:
    """The dialect's methods are the ones from before, and closing again changes nothing."""
    before = dict(vars(engine.dialect))
    injection = inject(engine, lambda: Fault.CONTENTION)
    assert dict(vars(engine.dialect)) != before
    injection.close()
    injection.close()
    assert dict(vars(engine.dialect)) == before
    insert(engine)
    assert rows(engine) == 1


def test_other_engines_are_untouched(engine: Engine) -> None:
    """Faults on one engine do not reach a second one to the same database."""
    other = sqlalchemy.create_engine(engine.url)
    with inject(engine, lambda: Fault.CONTENTION):
        insert(other)
    assert rows(other) == 1
    other.dispose()


async def test_asynchronous_engine_is_hit_as_well(tmp_path: Path) -> None:
    """The same faults on aiosqlite, with the sleep awaited."""
    engine = create_async_engine(f"sqlite+aiosqlite:///{tmp_path / 'faults.db'}")
    clock = ManualClock()
    fates = iter([None, Fault.SLOW, Fault.LOST_BEFORE_COMMIT, Fault.LOST_AFTER_COMMIT, Fault.CONTENTION])
    outcomes = []
    with inject(engine, lambda: next(fates, None), clock=clock):
        async with engine.begin() as connection:
            await connection.execute(text("CREATE TABLE t (n INTEGER)"))
        for _ in range(4):
            try:
                async with engine.begin() as connection:
                    await connection.execute(INSERT)
                outcomes.append("done")
            except exc.OperationalError as error:
                outcomes.append("lost" if error.connection_invalidated else "refused")
        async with engine.connect() as connection:
            assert await connection.scalar(COUNT) == 2
    await engine.dispose()
    assert outcomes == ["done", "lost", "lost", "refused"]
    assert clock.sleeps == [0.25]


@pytest.mark.parametrize("url", ["sqlite://", "sqlite:///:memory:"])
def test_database_in_memory_is_refused(url: str) -> None:
    """Its data would go with the first lost connection."""
    engine = sqlalchemy.create_engine(url)
    with pytest.raises(ConfigurationError, match="use a file"):
        inject(engine, lambda: None)
    engine.dispose()


def test_seeded_faults_hit_the_share_in_equal_parts() -> None:
    """The same seed hits the same transactions; over many, each kind has its part of the share."""
    first, again, other = ([plan() for _ in range(8000)] for plan in (SeededFaults(seed, 0.2) for seed in (1, 1, 2)))
    assert first == again != other
    for kind in Fault:
        assert first.count(kind) == pytest.approx(400, abs=100)
    assert [SeededFaults(1, 0)() for _ in range(10)] == [None] * 10
    assert {SeededFaults(1, 1, [Fault.SLOW])() for _ in range(10)} == {Fault.SLOW}


@pytest.mark.parametrize(
    ("given", "plan", "named"),
    [
        (object(), lambda: None, r"not a object: inject\(db\.engine, plan\)"),
        (sqlalchemy.create_engine("sqlite:///x.db"), Fault.SLOW, "must be a function, not a Fault"),
    ],
    ids=["engine", "plan"],
)
def test_what_is_of_another_kind_is_refused(given: Any, plan: Any, named: str) -> None:
    """Where it is given, and not in the middle of the first transaction."""
    with pytest.raises(ConfigurationError, match=named):
        inject(given, plan)


@pytest.mark.parametrize("share", [-0.1, 1.1])
def test_impossible_share_is_refused(share: float) -> None:
    """A share is between none and all."""
    with pytest.raises(ConfigurationError, match="share"):
        SeededFaults(1, share)


def test_no_kind_of_fault_is_refused() -> None:
    """There must be something to be hit by."""
    with pytest.raises(ConfigurationError, match="kinds"):
        SeededFaults(1, 0.5, [])


async def test_commit_on_a_closed_connection_is_not_taken_for_done(tmp_path: Path) -> None:
    """SQLAlchemy skips COMMIT on a closed connection of aiosqlite without a word; Holdfast runs the work again."""
    attempts = 0
    async with AsyncDatabase(f"sqlite:///{tmp_path / 'closed.db'}") as db:
        await db.migrate()
        async with db.begin() as tx:
            await tx.execute(text("CREATE TABLE t (n INTEGER)"))

        @db.transaction
        async def insert_and_lose_the_connection(tx: AsyncSession) -> None:
            nonlocal attempts
            attempts += 1
            await tx.execute(INSERT)
            if attempts == 1:
                raw = await (await tx.connection()).get_raw_connection()
                await raw.driver_connection.close()  # type: ignore[union-attr]

        await insert_and_lose_the_connection()

        async def count(tx: AsyncSession) -> int | None:
            found: int | None = await tx.scalar(COUNT)
            return found

        assert await db.read(count) == 1
    assert attempts == 2
