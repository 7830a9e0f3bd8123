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
        ("sqlite:///file:x?mode=memory&cache=shared&uri=true", False),
    ],
)
def test_database_in_memory_is_known(url: str, in_memory: bool) -> None:
    """One that several connections share counts as a file."""
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
