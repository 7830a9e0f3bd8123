"""The fault proxy as users' tests get it: from a URL, and as a fixture."""

from __future__ import annotations

import subprocess
import sys
from typing import Any

import pytest

from holdfast.errors import ConfigurationError, UsageError
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
        "mysql://app:secret@h:port/shop",
        7,
    ],
)
def test_an_address_without_one_tcp_host_is_refused(url: Any) -> None:
    """In words, and without its password."""
    with pytest.raises(ConfigurationError) as raised:
        fault_proxy(url)
    assert "secret" not in str(raised.value)


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
