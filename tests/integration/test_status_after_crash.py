"""What PostgreSQL says of a transaction after a crash, which gives out again the numbers that were never flushed to its log."""

from __future__ import annotations

from collections.abc import Iterator

import psutil
import pytest
from sqlalchemy import create_engine
from sqlalchemy.engine import Engine

from holdfast.clock import SYSTEM_CLOCK
from holdfast.drills.servers import Server
from holdfast.ext.sqlalchemy.status import fate_of, transaction_of
from holdfast.transaction import ProbeAnswer

PATIENCE_S = 60.0


@pytest.fixture
def engine(postgresql_server: Server) -> Iterator[Engine]:
    """An engine of the application, and an empty table `crashed (n)`."""
    made = create_engine(postgresql_server.url("psycopg"), pool_pre_ping=True)
    with made.begin() as connection:
        connection.exec_driver_sql("DROP TABLE IF EXISTS crashed")
        connection.exec_driver_sql("CREATE TABLE crashed (n INT)")
    yield made
    made.dispose()


def save(engine: Engine, number: int) -> str:
    """Commit a row; the transaction's name."""
    with engine.begin() as connection:
        connection.exec_driver_sql(f"INSERT INTO crashed VALUES ({number})")
        name = transaction_of(connection)
    assert name is not None
    return name


def lose(engine: Engine, server: Server) -> str:
    """Write a row, and have the server killed before COMMIT; the transaction's name."""
    connection = engine.connect()
    connection.exec_driver_sql("INSERT INTO crashed VALUES (1)")
    name = transaction_of(connection)
    assert name is not None
    server.kill()
    connection.invalidate()
    connection.close()
    server.start()
    return name


def asked(engine: Engine, transaction: str) -> ProbeAnswer:
    with engine.connect() as connection:
        return fate_of(connection, transaction)


def number_of(transaction: str) -> int:
    return int(transaction.rpartition("/")[2])


def test_number_that_the_crash_forgot_was_not_committed(engine: Engine, postgresql_server: Server) -> None:
    """It is still to be given out, so nobody has committed under it."""
    assert asked(engine, lose(engine, postgresql_server)) is ProbeAnswer.ABORTED


def test_number_that_was_given_out_again_is_not_taken_for_ours(engine: Engine, postgresql_server: Server) -> None:
    """Another transaction committed under our number; to believe that it was ours would lose a save."""
    ours = lose(engine, postgresql_server)
    theirs = save(engine, 2)
    while number_of(theirs) < number_of(ours):
        theirs = save(engine, 2)
    assert asked(engine, ours) is not ProbeAnswer.COMMITTED
    with engine.connect() as connection:
        assert connection.exec_driver_sql("SELECT COUNT(*) FROM crashed WHERE n = 1").scalar() == 0


def test_commit_before_the_crash_is_no_certain_answer(engine: Engine, postgresql_server: Server) -> None:
    """It cannot be told from another's under the same number, so nothing is claimed; without a crash it is certain."""
    ours = save(engine, 1)
    assert asked(engine, ours) is ProbeAnswer.COMMITTED
    postgresql_server.kill()
    postgresql_server.start()
    assert asked(engine, ours) is ProbeAnswer.UNKNOWN


def test_orderly_restart_forgets_nothing(engine: Engine, postgresql_server: Server) -> None:
    """A server that was shut down has written everything."""
    ours = save(engine, 1)
    postgresql_server.restart()
    assert asked(engine, ours) is ProbeAnswer.COMMITTED


def test_killed_backend_is_a_crash_too(engine: Engine, postgresql_server: Server) -> None:
    """The server starts anew inside, without being started."""
    ours = save(engine, 1)
    victim = postgresql_server.connect()
    psutil.Process(victim.info.backend_pid).kill()
    give_up_at = SYSTEM_CLOCK.monotonic() + PATIENCE_S
    answer = ProbeAnswer.COMMITTED
    while answer is not ProbeAnswer.UNKNOWN and SYSTEM_CLOCK.monotonic() < give_up_at:
        try:
            answer = asked(engine, ours)
        except Exception:  # it is on its way
            engine.dispose()
        SYSTEM_CLOCK.sleep(0.05)
    victim.close()
    assert answer is ProbeAnswer.UNKNOWN
