"""Connections that are retired: replaced once for one change of role, and as often as it takes while one is made."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from sqlalchemy import event, exc
from sqlalchemy.engine import Connection

from holdfast.ext.sqlalchemy import Endpoint, open_endpoint
from holdfast.ext.sqlalchemy.engines import session_of


@pytest.fixture
def endpoint(tmp_path: Path) -> Iterator[Endpoint]:
    """A SQLite file."""
    opened = open_endpoint(f"sqlite:///{tmp_path / 'a.db'}")
    yield opened
    opened.close()


def retiring(endpoint: Endpoint, times: int) -> list[object]:
    """Retire every connection just after it was made, that many times; the connections."""
    made: list[object] = []

    @event.listens_for(endpoint.engine, "connect")
    def retire(connection: object, _record: object) -> None:
        made.append(connection)
        if len(made) <= times:
            endpoint.retire()

    return made


def one(connection: Connection) -> object:
    return connection.exec_driver_sql("SELECT 1").scalar()


def test_connection_retired_while_it_is_made_is_made_again(endpoint: Endpoint) -> None:
    """A server that changes its role twice within a connect costs the caller nothing but another connect."""
    made = retiring(endpoint, 5)
    with endpoint.engine.connect() as connection:
        assert one(connection) == 1
    assert len(made) >= 6
    assert endpoint.engine.pool.status().endswith("Current Checked out connections: 0")


def test_connections_that_are_always_retired_end_the_wait(endpoint: Endpoint) -> None:
    """Something is wrong then, and nobody turns in circles for it."""
    retiring(endpoint, 1_000)
    with pytest.raises(exc.InvalidRequestError):
        endpoint.engine.connect()


def test_one_change_of_role_retires_once(endpoint: Endpoint) -> None:
    """Of two operations that met it, the second does not retire what was made since the first."""
    with endpoint.engine.connect() as first, endpoint.engine.connect() as second:
        assert endpoint.retire_after(session_of(first)) is True
        assert endpoint.retire_after(session_of(second)) is False
        with endpoint.engine.connect() as new:
            assert endpoint.retire_after(session_of(new)) is True
