"""The guard lets a drill harm this machine's addresses, what its user named and its own processes, and nothing else."""

from __future__ import annotations

import socket
from typing import Any

import pytest

from holdfast.drills.guard import check_started, check_target
from holdfast.errors import ConfigurationError


def _answers(*addresses: str) -> Any:
    """A resolver that knows one name."""

    def resolve(host: str, port: None) -> list[Any]:
        if not addresses:
            raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")
        return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", (address, 0)) for address in addresses]

    return resolve


@pytest.mark.parametrize("host", ["127.0.0.1", "127.9.8.7", "::1", "[::1]", "127.1", "::ffff:127.0.0.1", "localhost"])
def test_this_machine_may_be_harmed(host: str) -> None:
    """Every way to write a loopback address leads to one."""
    addresses = check_target(host)
    assert addresses
    assert all(address.startswith(("127.", "::")) for address in addresses)


def test_folder_of_a_socket_is_on_this_machine() -> None:
    """PostgreSQL's clients take a folder for a host."""
    assert check_target("/var/run/postgresql") == ()


@pytest.mark.parametrize(
    "host",
    [
        "192.0.2.1",
        "198.51.100.5",
        "0.0.0.0",
        "::",
        "2001:db8::1",
        "::ffff:192.0.2.1",
        "fe80::1",
        "3221225985",  # 192.0.2.1 as one number
    ],
)
def test_planted_foreign_addresses_are_refused(host: str) -> None:
    """An address that is not loopback is refused, and the text says how to allow it."""
    with pytest.raises(ConfigurationError, match=r"is not this machine.*--may-break"):
        check_target(host)


@pytest.mark.parametrize("addresses", [["192.0.2.1"], ["127.0.0.1", "192.0.2.1"], ["::1", "2001:db8::1"]], ids="-".join)
def test_planted_names_that_lead_elsewhere_are_refused(addresses: list[str]) -> None:
    """What counts is where a name leads, even one that reads like this machine; one foreign address is enough."""
    with pytest.raises(ConfigurationError, match=f"{addresses[-1]}.*is not this machine"):
        check_target("localhost", resolve=_answers(*addresses))


def test_name_that_leads_here_may_be_harmed() -> None:
    """A name in the hosts file for a loopback address is this machine."""
    assert check_target("db.test", resolve=_answers("127.0.0.9", "127.0.0.9")) == ("127.0.0.9",)


def test_named_host_may_be_harmed() -> None:
    """The user's word is enough, in any case and with the root's dot, and for that host alone."""
    resolve = _answers("192.0.2.1")
    assert check_target("DB.example.", ["db.example"], resolve=resolve) == ("192.0.2.1",)
    for other in (["example"], ["*"], ["db.example.com"], ["192.0.2.1"], ["db"], [""]):
        with pytest.raises(ConfigurationError):
            check_target("db.example", other, resolve=resolve)


def test_name_that_leads_nowhere_is_refused_unless_named() -> None:
    """It may lead somewhere a moment later."""
    with pytest.raises(ConfigurationError, match="leads nowhere"):
        check_target("db.example", resolve=_answers())
    assert check_target("db.example", ["db.example"], resolve=_answers()) == ()


@pytest.mark.parametrize("host", ["", " "])
def test_no_host_is_no_target(host: str) -> None:
    """A driver's default is not a decision."""
    with pytest.raises(ConfigurationError, match="name the host"):
        check_target(host)


def test_given_database_is_not_stopped() -> None:
    """A fault of the server needs a server of the drill's own."""
    assert check_started("server", "kill-server") == "server"
    with pytest.raises(ConfigurationError, match=r"'kill-server'.*--server"):
        check_started(None, "kill-server")
