"""Which errors of a driver that connects are about what it was given."""

from __future__ import annotations

import pytest
from sqlalchemy import exc

from holdfast.ext.sqlalchemy.connecting import refuses_options


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
