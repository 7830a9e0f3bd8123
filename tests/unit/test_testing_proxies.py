"""The fault proxy as users' tests get it: from a URL, and as a fixture."""

from __future__ import annotations

import subprocess
import sys
from typing import Any

import pytest
from sqlalchemy.engine import make_url

from holdfast.errors import ConfigurationError, UsageError
from holdfast.faultproxy.address import read_address
from holdfast.testing import DatabaseProxy, fault_proxy
from holdfast.testing.fixtures import StartFaultProxy
from holdfast.testing.fixtures import fault_proxy as fixture

start_fault_proxy = fixture
"""Under a name of its own here; users name the module in `pytest_plugins`."""


@pytest.mark.parametrize(
    ("url", "upstream", "protocol", "proxied"),
    [
        (
            "mysql+pymysql://app:p%40ss@db.example:3307/shop?charset=utf8mb4",
            ("db.example", 3307),
            "mysql",
            "mysql+pymysql://app:p%40ss@127.0.0.1:{port}/shop?charset=utf8mb4",
        ),
        ("mariadb://app@[::1]/shop", ("::1", 3306), "mysql", "mariadb://app@127.0.0.1:{port}/shop"),
        ("postgresql+asyncpg://127.0.0.1", ("127.0.0.1", 5432), "postgresql", "postgresql+asyncpg://127.0.0.1:{port}"),
        ("postgres://a:b@h/d", ("h", 5432), "postgresql", "postgres://a:b@127.0.0.1:{port}/d"),
        ("mysql://u:s3cret/x#?@h/d#1", ("h", 3306), "mysql", "mysql://u:s3cret/x#?@127.0.0.1:{port}/d#1"),
        ("mysql://u@here@h:/d?ssl_ca=/a,b", ("h", 3306), "mysql", "mysql://u@here@127.0.0.1:{port}/d?ssl_ca=/a,b"),
    ],
)
def test_a_url_keeps_all_but_host_and_port(url: str, upstream: tuple[str, int], protocol: str, proxied: str) -> None:
    """Driver, login, database and options stay; the protocol and its port follow from the scheme."""
    with fault_proxy(url) as proxy:
        assert (proxy.upstream, proxy.protocol) == (upstream, protocol)
        assert proxy.url == proxied.format(port=proxy.port)
        assert "p%40ss" not in repr(proxy)
    with pytest.raises(UsageError):
        _ = proxy.url


def test_host_and_port_need_the_protocol() -> None:
    """There is nothing else to tell it; the proxy's own come back in the same form."""
    with pytest.raises(ConfigurationError, match="protocol="):
        fault_proxy("127.0.0.1:3306")
    with fault_proxy("127.0.0.1:3306", protocol="mysql") as proxy:
        assert proxy.url == f"127.0.0.1:{proxy.port}"


@pytest.mark.parametrize(
    "url",
    [
        "sqlite:///shop.db",
        "mysql+pymysql:///shop?unix_socket=s",
        "postgresql://app:secret@h1:5432,h2:5432/shop",
        "mysql://app:secret@h:99999/shop",
        "mysql://app:secret@h:0/shop",
        "mysql://app:secret@h:port/shop",
        "mysql://app:sec@secret@h/shop",
        "mysql://app:secret/x@/shop",
        7,
    ],
)
def test_an_address_without_one_tcp_host_is_refused(url: Any) -> None:
    """In words, and without its password."""
    with pytest.raises(ConfigurationError) as raised:
        fault_proxy(url)
    assert "secret" not in str(raised.value)


@pytest.mark.parametrize(
    ("option", "names"),
    [
        ("unix_socket=/run/mysqld/mysqld.sock", "unix_socket"),
        ("charset=utf8mb4&host=127.0.0.2", "host"),
        ("hostaddr=127.0.0.2&password=secret", "hostaddr"),
        ("host=", "host"),
        ("port=3307", "port"),
        ("service=secret", "service"),
        ("read_default_file=/etc/my.cnf", "read_default_file"),
    ],
)
@pytest.mark.parametrize("scheme", ["mysql+pymysql", "postgresql+psycopg"])
def test_a_url_that_leads_past_the_proxy_is_refused(scheme: str, option: str, names: str) -> None:
    """An option that its driver follows instead of host and port: a test would pass without its cut."""
    with pytest.raises(ConfigurationError, match=rf"{names} would lead past the proxy") as raised:
        fault_proxy(f"{scheme}://app:secret@h/shop?{option}")
    assert "secret" not in str(raised.value)


@pytest.mark.parametrize(
    "url",
    [
        "mysql://u:s3cret/x#?@h/d#1",
        "mysql+pymysql://app:p%40ss@db.example:3307/shop?charset=utf8mb4",
        "postgresql://h:5432/d?options=a@b",
        "mysql://u@here@h:1/d",
        "mariadb://app@[::1]/shop",
        "postgresql://h",
    ],
)
def test_a_url_is_read_as_sqlalchemy_reads_it(url: str) -> None:
    """The proxy stands in front of the server that the driver would have gone to."""
    ours, theirs = read_address(url), make_url(url)
    assert (ours.host, ours.port) == (theirs.host, theirs.port)


def test_the_fixture_starts_as_many_as_are_asked_for(start_fault_proxy: StartFaultProxy) -> None:
    """Each runs; the fixture closes them."""
    proxies = [start_fault_proxy("mysql://h/d"), start_fault_proxy("h:1", protocol="tcp", seed=7)]
    assert all(isinstance(proxy, DatabaseProxy) and proxy.port for proxy in proxies)
    assert proxies[0].port != proxies[1].port


def test_pytest_is_imported_by_the_fixtures_alone() -> None:
    """Whoever uses the rest needs no pytest."""
    code = "import sys, holdfast.testing; print('pytest' in sys.modules)"
    done = subprocess.run([sys.executable, "-I", "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"
