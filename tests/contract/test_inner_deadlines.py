"""The deadline of an operation inside another one ends that part, and with it the whole."""

from __future__ import annotations

from contextlib import suppress
from typing import Any

import pytest
from sqlalchemy.orm import Session

from holdfast.deadline import current_deadline
from holdfast.errors import DeadlineExceeded, report_of
from holdfast.outcome import Outcome
from tests.contract.faces import ONE_A_SERVER, Face, User, only, usernames

kind = only(ONE_A_SERVER)

ENDLESS = {
    "sqlite": "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 300000000) SELECT count(*) FROM n",
    "mariadb": "SELECT SLEEP(8)",
    "mysql": "SELECT SLEEP(8)",
    "postgresql": "SELECT pg_sleep(8)",
}
"""Statements that end after all deadlines of these tests."""


def nested(face: Face, inner: Any, seen: list[Any], *, caught: bool = False, **options: Any) -> Any:
    """Run `inner` with options of its own inside an operation that has written; `seen` gets each attempt."""
    caught_there = (DeadlineExceeded,) if caught else ()
    operation = face.db.transaction(name="inner")(face.function(inner)).having(**options)

    def sync(tx: Any) -> Any:
        seen.append("outer")
        tx.add(User(username="outer", age=30))
        with suppress(*caught_there):
            return operation()

    async def asynchronous(tx: Any) -> Any:
        seen.append("outer")
        tx.add(User(username="outer", age=30))
        with suppress(*caught_there):
            return await operation()

    return face.wait(face.db.run(asynchronous if face.kind.asynchronous else sync))


def test_what_runs_inside_sees_its_own_deadline(face: Face) -> None:
    """And the caller's, where that ends earlier."""

    def left(_: Session) -> float:
        deadline = current_deadline()
        assert deadline is not None
        return deadline.remaining_s()

    assert nested(face, left, [], deadline=2.0) <= 2.0
    face.run(lambda session: session.query(User).delete() and None)
    assert nested(face, left, [], deadline=60.0) <= 10.0


@pytest.mark.parametrize("caught", [False, True])
def test_an_inner_operation_is_cut_at_its_own_deadline(face: Face, *, caught: bool) -> None:
    """The outer one fails with it and is not run again for it, also where it goes on as if nothing had been."""
    seen: list[Any] = []

    def endless(session: Session) -> None:
        session.connection().exec_driver_sql(ENDLESS[face.kind.server])

    with pytest.raises(DeadlineExceeded, match="inner: its deadline passed") as error:
        nested(face, endless, seen, caught=caught, deadline=0.3)
    report = report_of(error.value)
    assert report is not None
    assert (seen, report.outcome, report.attempts) == (["outer"], Outcome.NOT_COMMITTED, 1)
    assert report.elapsed_s < 4.0
    assert face.read(usernames) == []


def test_a_block_inside_is_cut_at_its_own_deadline(face: Face) -> None:
    """As an operation is."""
    endless = ENDLESS[face.kind.server]

    def sync(tx: Any) -> None:
        tx.add(User(username="outer", age=30))
        with face.db.begin(name="inner", deadline=0.3) as inside:
            inside.connection().exec_driver_sql(endless)

    async def asynchronous(tx: Any) -> None:
        tx.add(User(username="outer", age=30))
        async with face.db.begin(name="inner", deadline=0.3) as inside:
            await (await inside.connection()).exec_driver_sql(endless)

    with pytest.raises(DeadlineExceeded, match="inner: its deadline passed"):
        face.wait(face.db.run(asynchronous if face.kind.asynchronous else sync))
    assert face.read(usernames) == []
