"""A deadline that differs reaches the server, the usual one costs nothing, and what a caller left ends by itself."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from sqlalchemy import exc
from sqlalchemy.engine import Connection

from holdfast.drills.servers import Server
from holdfast.ext.sqlalchemy.engines import session_of
from holdfast.ext.sqlalchemy.pushdown import push_down
from tests.integration.endpoints import ASYNC, SYNC, Case, Opened, on, opening, url_of

ALL = [*SYNC, *ASYNC]
SERVERS = ("mariadb", "mysql", "postgresql")

# The deadline's length is the endpoints' (8 s) at first, then what a test pushes down.
LIMITS = {
    "mariadb": "SELECT @@SESSION.innodb_lock_wait_timeout, @@SESSION.lock_wait_timeout, "
    "@@SESSION.max_statement_time, @@SESSION.idle_transaction_timeout",
    "mysql": "SELECT @@SESSION.innodb_lock_wait_timeout, @@SESSION.lock_wait_timeout, @@SESSION.max_execution_time",
    "postgresql": "SELECT current_setting('lock_timeout'), current_setting('statement_timeout'), "
    "current_setting('idle_in_transaction_session_timeout')",
    "sqlite": "PRAGMA busy_timeout",
}
USUAL = {
    "mariadb": (7, 7, 8.25, 9),
    "mysql": (7, 7, 7900),
    "postgresql": ("7900ms", "8250ms", "9s"),
    "sqlite": (7900,),
}
SHORT = {
    "mariadb": (2, 2, 3.25, 4),
    "mysql": (2, 2, 2900),
    "postgresql": ("2900ms", "3250ms", "4s"),
    "sqlite": (2900,),
}
LONG = {
    "mariadb": (59, 59, 60.25, 61),
    "mysql": (59, 59, 59900),
    "postgresql": ("59900ms", "60250ms", "61s"),
    "sqlite": (59900,),
}


@pytest.fixture
async def opened(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Opened]:
    """The endpoint of a case."""
    case: Case = request.param
    server: Server | None = None if case.flavour == "sqlite" else request.getfixturevalue(f"{case.flavour}_server")
    async with opening(url_of(request, case, tmp_path), case, server) as found:
        yield found


@on(ALL)
async def test_limits_follow_each_transaction(opened: Opened) -> None:
    """Shorter and longer deadlines set the server's limits, and the next ordinary transaction has the usual ones again."""

    def limits_with(connection: Connection, remaining_s: float) -> tuple[bool, tuple[object, ...]]:
        connection.begin()
        sent = push_down(connection, session_of(connection).limits, remaining_s)
        return sent, tuple(connection.exec_driver_sql(LIMITS[opened.case.flavour]).one())

    seen = [await opened.run(lambda c, left=left: limits_with(c, left)) for left in (7.9, 3.0, 3.0, 7.9, 60.0, 8.0)]  # type: ignore[misc]
    flavour = opened.case.flavour
    limits = [limits for _, limits in seen]
    assert limits == [USUAL[flavour], SHORT[flavour], SHORT[flavour], USUAL[flavour], LONG[flavour], USUAL[flavour]]
    # PostgreSQL's end with their transaction, so nothing is sent to go back; the others remember what they set.
    expected = (
        [False, True, True, False, True, False] if flavour == "postgresql" else [False, True, False, True, True, True]
    )
    assert [sent for sent, _ in seen] == expected


@on(ALL, "mariadb", "mysql")
async def test_usual_deadline_costs_no_statement(opened: Opened) -> None:
    """With the usual time left the server counts the transaction's own statement and nothing else."""
    ask = "SHOW SESSION STATUS LIKE 'Questions'"

    def counted(connection: Connection, remaining_s: float) -> int:
        before = int(connection.exec_driver_sql(ask).one()[1])
        push_down(connection, session_of(connection).limits, remaining_s)
        return int(connection.exec_driver_sql(ask).one()[1]) - before

    assert [await opened.run(lambda c, left=left: counted(c, left)) for left in (8.0, 5.0, 2.0)] == [1, 1, 2]  # type: ignore[misc]


@on(SYNC[::2])
async def test_wait_for_a_lock_ends_by_the_servers_own_error(opened: Opened) -> None:
    """A waiter whose deadline was pushed down gets the server's lock error in time, and its connection stays usable."""
    await opened.execute("CREATE TABLE waited (id INT PRIMARY KEY)", "INSERT INTO waited VALUES (1)")
    try:
        with opened.engine.connect() as holder, opened.engine.connect() as waiter:
            if opened.server is None:
                cursor = waiter.connection.cursor()
                cursor.execute("PRAGMA busy_timeout=200")  # its wait comes before there is a transaction to push to
            else:
                waiter.begin()
                push_down(waiter, session_of(waiter).limits, 1.5 if opened.case.flavour == "postgresql" else 3.0)
            holder.exec_driver_sql("UPDATE waited SET id = 2")
            began = time.monotonic()
            with pytest.raises(exc.OperationalError, match=r"1205|lock timeout|locked"):
                waiter.exec_driver_sql("UPDATE waited SET id = 3")
            assert time.monotonic() - began < 3.0
            waiter.rollback()
            holder.commit()
            assert waiter.exec_driver_sql("SELECT id FROM waited").scalar() == 2
            waiter.rollback()
    finally:
        await opened.execute("DROP TABLE waited")


@on(SYNC[::2], "mariadb", "postgresql")
async def test_silent_callers_transaction_is_ended(opened: Opened) -> None:
    """A transaction whose caller says nothing any more loses its locks soon after its deadline."""
    await opened.execute("CREATE TABLE left_behind (id INT PRIMARY KEY)", "INSERT INTO left_behind VALUES (1)")
    try:

        def left_behind() -> float:
            with opened.engine.connect() as silent, opened.engine.connect() as other:
                silent.begin()
                push_down(silent, session_of(silent).limits, 0.2)
                silent.exec_driver_sql("UPDATE left_behind SET id = 2")
                began = time.monotonic()
                other.exec_driver_sql("UPDATE left_behind SET id = 3")
                other.commit()
                silent.invalidate()
                return time.monotonic() - began

        assert 0.5 < await opened.call(left_behind) < 4.0
        assert await opened.scalar("SELECT id FROM left_behind") == 3
    finally:
        await opened.execute("DROP TABLE left_behind")
