"""How long a connect may take, and which errors of a driver are about what it was given."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import pytest
from sqlalchemy import create_engine, exc

from holdfast.deadline import within
from holdfast.ext.sqlalchemy.address import resolve
from holdfast.ext.sqlalchemy.connecting import bound_connecting, refuses_options
from holdfast.testing import ManualClock


def said(text: str) -> Exception:
    """An error of libpq's, as SQLAlchemy hands it on."""
    return exc.OperationalError("", {}, Exception(text))


@pytest.mark.parametrize(
    "error",
    [
        TypeError("Connection.__init__() got an unexpected keyword argument 'bogus'"),
        TypeError("'bogus' is an invalid keyword argument for connect()"),
        TypeError("connect() got an unexpected keyword argument 'sslmode'"),
        said('invalid connection option "bogus"'),
        said('connection is bad: invalid sslmode value: "bogus"'),
        said('connection is bad: invalid integer value "soon" for connection option "keepalives"'),
        said('connection failed: root certificate file "/no/such.pem" does not exist\nEither provide the file, or'),
        said('connection failed: private key file "/k.pem" has group or world access; file must have permissions u=rw'),
        said('connection failed: could not read certificate file "/no/such.pem": no start line'),
        said('connection to server at "127.0.0.1", port 1 failed: server does not support SSL, but SSL was required'),
        FileNotFoundError(2, "No such file or directory"),
    ],
    ids=str,
)
def test_what_no_other_try_mends(error: Exception) -> None:
    """Mistyped, or without its file."""
    assert refuses_options(error, by_network=True)


@pytest.mark.parametrize(
    "error",
    [
        TypeError("ord() expected a character, but string of length 0 found"),
        ValueError("Invalid file descriptor: -1"),
        ConnectionRefusedError(111, "Connection refused"),
        said('connection to server at "127.0.0.1", port 1 failed: Connection refused'),
        said("connection timeout expired"),
        said('FATAL:  password authentication failed for user "app"'),
        said("SSL SYSCALL error: EOF detected"),
    ],
    ids=str,
)
def test_what_another_try_may_mend(error: Exception) -> None:
    """Servers that are away, networks that break, and connections that were cut while they were made."""
    assert not refuses_options(error, by_network=True)


def test_a_missing_socket_is_a_server_that_is_away() -> None:
    """It comes back with the server."""
    assert not refuses_options(FileNotFoundError(2, "No such file or directory"), by_network=False)


def telling(driver: str, parameters: dict[str, Any], deadlines_s: Sequence[float]) -> Iterator[tuple[Any, Any]]:
    """The limits of connects of one engine, whose parameters are the same object every time, as in SQLAlchemy up to 2.0."""
    url = f"{driver}://app@127.0.0.1/db"
    engine = create_engine(url)
    bound_connecting(engine, resolve(url, asynchronous=False), 3.0)
    (bound,) = engine.dialect.dispatch.do_connect
    for deadline_s in deadlines_s:
        with within(deadline_s, clock=ManualClock()):
            bound(engine.dialect, None, (), parameters)
        yield parameters["connect_timeout"], parameters.get("read_timeout")


@pytest.mark.parametrize(
    ("driver", "given", "limits"),
    [
        ("mysql+pymysql", {}, [(3.0, 3.0), (0.5, 0.5), (3.0, 3.0)]),
        ("mysql+pymysql", {"connect_timeout": "2"}, [(2.0, 2.0), (0.5, 0.5), (2.0, 2.0)]),
        ("mysql+pymysql", {"read_timeout": 7}, [(3.0, 7), (0.5, 7), (3.0, 7)]),
        ("mysql+pymysql", {"connect_timeout": "0"}, [(3.0, 3.0), (0.5, 0.5), (3.0, 3.0)]),
        ("postgresql+psycopg", {"connect_timeout": 0}, [(3, None), (1, None), (3, None)]),
    ],
    ids=str,
)
def test_one_hurried_caller_shortens_no_other_connect(
    driver: str, given: dict[str, Any], limits: list[tuple[object, object]]
) -> None:
    """What was written for him is not what the URL says; and there 0 says that it sets none."""
    assert list(telling(driver, given, [60.0, 0.5, 60.0])) == limits
