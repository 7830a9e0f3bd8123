"""How long a connect may take, and which errors of a driver are about what it was given."""

from __future__ import annotations

import ssl
import threading
from typing import Any

import pytest
from pymysql.err import OperationalError
from sqlalchemy import Engine, event, exc
from sqlalchemy.ext.asyncio import AsyncEngine

from holdfast.deadline import within
from holdfast.errors import ConfigurationError
from holdfast.ext.sqlalchemy.address import Host, resolve
from holdfast.ext.sqlalchemy.connecting import refuses_options
from holdfast.ext.sqlalchemy.engines import Endpoint, open_endpoint
from holdfast.ext.sqlalchemy.login import login_arguments
from holdfast.ext.sqlalchemy.settings import SessionSettings
from holdfast.testing import ManualClock

GENEROUS_S = 30.0
"""How long a test waits for another thread: only a bug makes it last."""


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


def connecting_with(engine: Engine) -> list[dict[str, Any]]:
    """What its driver is told, from now on, instead of connecting."""
    told: list[dict[str, Any]] = []

    def connect(*_: object, **parameters: Any) -> Any:
        told.append(parameters)
        raise ConnectionRefusedError

    engine.dialect.connect = connect  # type: ignore[method-assign]
    return told


def try_to_connect(endpoint: Endpoint, deadline_s: float = 60.0) -> None:
    """As an operation with this deadline does."""
    with within(deadline_s, clock=ManualClock()), pytest.raises(ConnectionRefusedError):
        endpoint.engine.raw_connection()


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
    query = "&".join(f"{name}={value}" for name, value in given.items())
    endpoint = open_endpoint(f"{driver}://app@127.0.0.1/db?{query}")
    told = connecting_with(endpoint.engine)
    for deadline_s in (60.0, 0.5, 60.0):
        try_to_connect(endpoint, deadline_s)
    assert [(one["connect_timeout"], one.get("read_timeout")) for one in told] == limits


def settings_told(driver: str, **connect_args: Any) -> dict[str, Any]:
    """What the driver is told by an engine with these `connect_args`."""
    endpoint = open_endpoint(f"{driver}://app@127.0.0.1/db", engine_options={"connect_args": connect_args})
    told = connecting_with(endpoint.engine)
    try_to_connect(endpoint)
    return told[0]


@pytest.mark.parametrize("driver", ["postgresql+psycopg", "postgresql+psycopg2"])
def test_words_of_the_application_stand_behind_ours(driver: str) -> None:
    """Libpq takes all settings in one argument: who names one of them must not lose the others."""
    ours = settings_told(driver)["options"]
    assert "default_transaction_isolation=" in ours
    assert settings_told(driver, options="-c search_path=app")["options"] == f"{ours} -c search_path=app"
    assert settings_told(driver, sslmode="require")["sslmode"] == "require"


def test_server_settings_of_the_application_stand_beside_ours() -> None:
    """Asyncpg takes them as a mapping; the application's win."""
    address = resolve("postgresql+asyncpg://app@127.0.0.1/db", asynchronous=True)
    theirs = {"server_settings": {"application_name": "shop", "TimeZone": "Europe/Vienna"}, "ssl": "require"}
    told = login_arguments(address, SessionSettings(), theirs)
    assert told["ssl"] == "require"
    assert told["server_settings"].items() >= theirs["server_settings"].items()  # type: ignore[attr-defined]
    assert told["server_settings"]["default_transaction_isolation"] == "repeatable read"
    with pytest.raises(ConfigurationError, match="server_settings in connect_args must be a mapping, not str"):
        login_arguments(address, SessionSettings(), {"server_settings": "application_name=shop"})


@pytest.mark.parametrize("asynchronous", [False, True])
def test_side_connections_log_in_as_the_others(asynchronous: bool) -> None:
    """What looks for a lost server, or ends sessions, would be turned away without the application's certificate or token."""
    endpoint = open_endpoint(
        "mysql://app@db1,db2/shop",
        asynchronous=asynchronous,
        engine_options={"connect_args": {"ssl": {"ca": "/ca.pem"}, "program_name": "shop"}},
    )
    made = endpoint.side_engine(Host("db2"))
    side = made.sync_engine if isinstance(made, AsyncEngine) else made
    told = connecting_with(side)

    @event.listens_for(endpoint.engine, "do_connect")
    def fetch_a_token(_dialect: object, _record: object, _arguments: object, parameters: dict[str, Any]) -> None:
        parameters["password"] = f"token for {parameters['host']}"

    with pytest.raises(ConnectionRefusedError):
        side.raw_connection()
    assert [(one["host"], one["password"], one["ssl"], one["program_name"]) for one in told] == [
        ("db2", "token for db2", {"ca": "/ca.pem"}, "shop")
    ]


def test_side_connection_that_the_application_makes_itself() -> None:
    """A listener may return the connection."""
    endpoint = open_endpoint("mysql://app@db1/shop")
    made = endpoint.side_engine(None)
    assert isinstance(made, Engine)

    @event.listens_for(endpoint.engine, "do_connect")
    def through_a_tunnel(*_: object) -> Any:
        raise LookupError("the tunnel")

    with pytest.raises(LookupError, match="the tunnel"):
        made.raw_connection()


def test_authorities_are_read_once_where_nobody_is_verified(monkeypatch: pytest.MonkeyPatch) -> None:
    """PyMySQL reads them all for each connection. What the application says is read each time: its files may be new."""
    read: list[object] = []
    make_context = ssl.create_default_context

    def count(*args: Any, **kwargs: Any) -> ssl.SSLContext:
        read.append(kwargs.get("capath"))
        return make_context(*args, **{**kwargs, "cafile": None, "capath": None})

    monkeypatch.setattr(ssl, "create_default_context", count)

    def connect_twice(**connect_args: Any) -> int:
        read.clear()
        endpoint = open_endpoint("mysql+pymysql://app@127.0.0.1:1/db", engine_options={"connect_args": connect_args})
        for _ in range(2):
            with pytest.raises(OperationalError):
                endpoint.engine.raw_connection()
        return len(read)

    assert connect_twice() == 1
    assert connect_twice(ssl={"capath": "/none"}) == 2
    assert connect_twice(ssl_disabled=True) == 0


def test_listener_for_all_engines_is_asked_once() -> None:
    """It hears of a side connection without our help."""
    endpoint = open_endpoint("mysql://app@db1/shop")
    made = endpoint.side_engine(None)
    assert isinstance(made, Engine)
    told = connecting_with(made)
    heard: list[object] = []

    def listener(*_: object) -> None:
        heard.append(None)

    event.listen(Engine, "do_connect", listener)
    try:
        with pytest.raises(ConnectionRefusedError):
            made.raw_connection()
    finally:
        event.remove(Engine, "do_connect", listener)
    assert (len(told), len(heard)) == (1, 1)


def test_who_connects_at_the_same_time_goes_where_he_was_sent() -> None:
    """Up to version 2.0 SQLAlchemy hands out the same parameters every time, and others may be on their way elsewhere."""
    first, second = Host("db1", 1), Host("db2", 2)
    endpoint = open_endpoint("mysql+pymysql://app@db1:1,db2:2/shop")
    told = connecting_with(endpoint.engine)
    has_come, may_go_on = threading.Event(), threading.Event()
    heard: list[str] = []

    @event.listens_for(endpoint.engine, "do_connect")
    def fetch_a_token(_dialect: object, _record: object, _arguments: object, parameters: dict[str, Any]) -> None:
        heard.append(parameters["host"])
        parameters["password"] = f"token for {parameters['host']}"
        if parameters["host"] == first.name:
            has_come.set()
            assert may_go_on.wait(GENEROUS_S)

    slow = threading.Thread(target=try_to_connect, args=(endpoint,))
    slow.start()
    assert has_come.wait(GENEROUS_S)
    endpoint.move_to(second)
    try_to_connect(endpoint)
    may_go_on.set()
    slow.join(GENEROUS_S)
    found = [(one["host"], one["port"], one["password"]) for one in told]
    assert found == [("db2", 2, "token for db2"), ("db1", 1, "token for db1")]
    assert heard == ["db1", "db2"]
