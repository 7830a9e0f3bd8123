"""A URL leads to a driver that fits, or to an error that names one; never to a password in a text."""

from __future__ import annotations

import traceback

import pytest
from sqlalchemy.engine import URL, make_url

from holdfast.dialects import Flavour
from holdfast.errors import ConfigurationError, MissingExtra
from holdfast.ext.sqlalchemy.address import resolve


@pytest.mark.parametrize(
    ("url", "sync_driver", "async_driver", "flavour"),
    [
        ("mysql://u:pw@h/d", "mysql+pymysql", "mysql+asyncmy", None),
        ("mariadb://u:pw@h/d", "mariadb+pymysql", "mariadb+asyncmy", Flavour.MARIADB),
        ("postgresql://u:pw@h/d", "postgresql+psycopg", "postgresql+psycopg", Flavour.POSTGRESQL),
        ("sqlite:///file.db", "sqlite+pysqlite", "sqlite+aiosqlite", Flavour.SQLITE),
    ],
)
def test_url_without_driver_gets_the_default(
    url: str, sync_driver: str, async_driver: str, flavour: Flavour | None
) -> None:
    """Each mode has a driver of its own, and the flavour is known as far as the URL tells it."""
    for asynchronous, expected in ((False, sync_driver), (True, async_driver)):
        address = resolve(url, asynchronous=asynchronous)
        assert address.url.drivername == expected
        assert address.flavour is flavour
        assert address.url.password == make_url(url).password


def test_url_object_is_as_good_as_text() -> None:
    """SQLAlchemy's own URL is taken, its driver kept."""
    address = resolve(URL.create("postgresql+psycopg2", "u", "pw", "h"), asynchronous=False)
    assert (address.backend, address.driver) == ("postgresql", "psycopg2")


@pytest.mark.parametrize(
    ("url", "in_memory"),
    [
        ("sqlite://", True),
        ("sqlite:///:memory:", True),
        ("sqlite:///a.db", False),
        ("sqlite:///file:x?mode=memory&cache=shared&uri=true", True),
        ("sqlite:///file::memory:?cache=shared&uri=true", True),
        ("sqlite:///file:/x?vfs=memdb&uri=true", True),
        ("sqlite:///file:a.db?uri=true", False),
    ],
)
def test_database_in_memory_is_known(url: str, in_memory: bool) -> None:
    """One that several connections share has no file either, and ends with the last of them."""
    assert resolve(url, asynchronous=False).in_memory is in_memory


@pytest.mark.parametrize(
    ("url", "asynchronous", "cure"),
    [
        ("postgres://u:topsecret@h/d", False, "write postgresql:// instead"),
        ("oracle://u:topsecret@h/d", False, "known are mysql, mariadb, postgresql, sqlite"),
        ("mysql+nosuch://u:topsecret@h/d", False, "write mysql\\+pymysql://"),
        ("mysql+nosuch://u:topsecret@h/d", True, "write mysql\\+asyncmy://"),
        ("mysql+asyncmy://u:topsecret@h/d", False, "write mysql\\+pymysql://, or use AsyncDatabase"),
        ("postgresql+asyncpg://u:topsecret@h/d", False, "write postgresql\\+psycopg://, or use AsyncDatabase"),
        ("mariadb+pymysql://u:topsecret@h/d", True, "write mariadb\\+asyncmy://, or use Database"),
        ("sqlite+pysqlite:///topsecret", True, "write sqlite\\+aiosqlite://, or use Database"),
        ("mysql://u:topsecret@h:port/d", False, "percent-encoded"),
        ("topsecret", False, "percent-encoded"),
        ("mysql://u:top@topsecret@h/d", False, "percent-encoded"),
        ("mysql://u:top@topsecret,x@a,b/d", False, "percent-encoded"),
        ("oracle://h/d?password=topsecret", False, "known are"),
    ],
)
def test_wrong_url_names_its_cure_and_no_secret(url: str, asynchronous: bool, cure: str) -> None:
    """Neither the text nor what it is chained to repeats a password."""
    with pytest.raises(ConfigurationError, match=cure) as raised:
        resolve(url, asynchronous=asynchronous)
    shown = "".join(traceback.format_exception(raised.value))
    assert "topsecret" not in "".join(line for line in shown.splitlines() if "resolve(" not in line)


@pytest.mark.parametrize(
    ("url", "module", "asynchronous", "command"),
    [
        ("mysql://h", "pymysql", False, "pip install 'holdfast\\[mysql\\]'"),
        ("mysql://h", "asyncmy", True, "pip install 'holdfast\\[mysql\\]'"),
        ("postgresql+asyncpg://h", "asyncpg", True, "pip install 'holdfast\\[postgresql\\]'"),
        ("sqlite:///a", "aiosqlite", True, "pip install 'holdfast\\[sqlite\\]'"),
        ("mysql+mysqldb://h", "MySQLdb", False, "pip install mysqlclient"),
        ("postgresql+psycopg2://h", "psycopg2", False, "pip install psycopg2-binary"),
        ("mysql+aiomysql://h", "aiomysql", True, "pip install aiomysql"),
    ],
)
def test_missing_driver_names_the_command(
    url: str, module: str, asynchronous: bool, command: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whoever lacks a driver is told what to install."""
    monkeypatch.setitem(__import__("sys").modules, module, None)
    with pytest.raises(MissingExtra, match=command):
        resolve(url, asynchronous=asynchronous)


def test_address_shows_no_password() -> None:
    """It may be logged."""
    assert "topsecret" not in repr(resolve("mysql://u:topsecret@h/d", asynchronous=False))


# -- several servers -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("url", "hosts"),
    [
        ("mysql://u:pw@a/d", [("a", None)]),
        ("mysql://u:pw@a:3306/d", [("a", 3306)]),
        ("mysql://u:pw@a:1,b:2,c/d", [("a", 1), ("b", 2), ("c", None)]),
        ("mysql://a,b/d", [("a", None), ("b", None)]),
        ("mysql://u:pw@a, b/d", [("a", None), ("b", None)]),
        ("postgresql://u:pw@[::1]:5432,[2001:db8::2]/d", [("::1", 5432), ("2001:db8::2", None)]),
        ("postgresql://u:pw@[::1],192.0.2.2:5433/d?application_name=a,b", [("::1", None), ("192.0.2.2", 5433)]),
        ("mysql://u:p%2Cw%40x@a:1,b:2/d", [("a", 1), ("b", 2)]),
        ("mysql://u:p,w@a:1/d", [("a", 1)]),
        ("mysql://a,b:2/d", [("a", None), ("b", 2)]),
        ("mysql://u:p,w@a:1,b/d", [("a", 1), ("b", None)]),
        ("mysql://u:pw@a,b", [("a", None), ("b", None)]),
        ("mysql://u:pw@a,b?charset=utf8mb4", [("a", None), ("b", None)]),
        ("mysql://u:p#w/?@a,b/d", [("a", None), ("b", None)]),
        ("mysql:///d?unix_socket=/run/a,b", []),
        ("sqlite:///a,b.db", []),
    ],
)
def test_servers_stand_side_by_side(url: str, hosts: list[tuple[str, int | None]]) -> None:
    """The first is the preferred one; commas in password, path and query separate nothing."""
    address = resolve(url, asynchronous=False)
    assert list(address.hosts) == hosts
    assert (address.url.host, address.url.port) == (hosts[0] if hosts else (None, None))


def test_everything_but_the_host_is_shared() -> None:
    """Each server is reached with the same user, password, database and options."""
    url = resolve("postgresql://u:p%2Cw%40x@a:1,b:2/d?application_name=x,y", asynchronous=False).url
    assert (url.username, url.password, url.database) == ("u", "p,w@x", "d")
    assert dict(url.query) == {"application_name": "x,y"}


def test_url_of_sqlalchemy_may_name_several() -> None:
    """It takes them for one name, and their port for its port."""
    url = make_url("mysql://u:pw@a,b/d")
    assert [str(host) for host in resolve(url, asynchronous=False).hosts] == ["a", "b"]
    assert [str(host) for host in resolve(url.set(port=3), asynchronous=False).hosts] == ["a:3", "b:3"]


def test_sequence_of_urls_is_as_good() -> None:
    """As text, as SQLAlchemy's URLs, or mixed, in their order."""
    several: list[str | URL] = ["mysql://u:pw@a:1/d", make_url("mysql://u:pw@[::1]:2/d"), "mysql://u:pw@c,e/d"]
    address = resolve(several, asynchronous=True)
    assert [str(host) for host in address.hosts] == ["a:1", "[::1]:2", "c", "e"]
    assert address.url.drivername == "mysql+asyncmy"


@pytest.mark.parametrize(
    ("urls", "complaint"),
    [
        ([], "no database URL was given"),
        (["mysql://u:topsecret@a/d", "mysql://u:topsecret2@b/d"], "differ in more than host and port"),
        (["mysql://u:topsecret@a/d", "mysql://v:topsecret@b/d"], "differ in more than host and port"),
        (["mysql://u:topsecret@a/d", "mysql://u:topsecret@b/e"], "differ in more than host and port"),
        (["mysql://u:topsecret@a/d", "mariadb://u:topsecret@b/d"], "differ in more than host and port"),
        (["mysql://u@a/d?x=topsecret", "mysql://u@b/d?x=topsecret2"], "differ in more than host and port"),
        (["mysql://u:topsecret@a/d", "mysql://u:topsecret@a/d"], "named twice, or not at all"),
        (["mysql://u:topsecret@a,a/d"], "named twice, or not at all"),
        (["mysql://u:topsecret@a:1,a:1/d"], "named twice, or not at all"),
        (["mysql://u:topsecret@a,,b/d"], "named twice, or not at all"),
        (["mysql://u:topsecret@,/d"], "named twice, or not at all"),
        (["sqlite:///topsecret", "sqlite:///topsecret"], "named twice, or not at all"),
        (["mysql://u:topsecret@a:x,b/d"], "cannot be read"),
        (["mysql://u:topsecret#@a,b:2/d"], "cannot be read"),
    ],
)
def test_servers_that_are_not_one_database_are_refused(urls: list[str], complaint: str) -> None:
    """Whatever does not fit together is said before anything connects, and without a secret."""
    with pytest.raises(ConfigurationError, match=complaint) as raised:
        resolve(urls, asynchronous=False)
    assert "topsecret" not in "".join(
        map(str, [raised.value, raised.value.__cause__, raised.value.__context__])
    ).replace("sqlite+pysqlite:///topsecret", "").replace("sqlite:///topsecret", "")


def test_same_host_on_two_ports_is_two_servers() -> None:
    """As on a machine for tests."""
    assert len(resolve("mysql://u@a:1,a:2/d", asynchronous=False).hosts) == 2
