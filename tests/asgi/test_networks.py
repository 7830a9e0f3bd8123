"""Addresses and networks: read strictly, IPv4 in IPv6 clothes included."""

from __future__ import annotations

from ipaddress import ip_address

import pytest
from hypothesis import given
from hypothesis import strategies as st

from holdfast.asgi.networks import Networks, parse_address
from holdfast.errors import ConfigurationError


@pytest.mark.parametrize(
    ("text", "address"),
    [
        ("192.0.2.1", "192.0.2.1"),
        ("192.0.2.1:443", "192.0.2.1"),
        ("2001:db8::1", "2001:db8::1"),
        ("2001:0DB8:0::1", "2001:db8::1"),
        ("[2001:db8::1]", "2001:db8::1"),
        ("[2001:db8::1]:65535", "2001:db8::1"),
        ("::ffff:192.0.2.1", "192.0.2.1"),
        ("[::ffff:c000:201]:1", "192.0.2.1"),
        ("::", "::"),
    ],
)
def test_addresses_are_read_in_every_form_that_proxies_write(text: str, address: str) -> None:
    """With and without port and brackets, and a mapped address is the IPv4 one."""
    assert str(parse_address(text)) == address


@pytest.mark.parametrize(
    "text",
    [
        "",
        " ",
        "unknown",
        "_hidden",
        "localhost",
        "192.0.2",
        "192.0.2.256",
        "192.0.2.01",
        "192.0.2.1:",
        "192.0.2.1:99999",
        "192.0.2.1:٣",
        "192.0.2.1:-1",
        "192.0.2.1/24",
        "0x7f.1",
        "3221225985",
        "[192.0.2.1]",
        "[2001:db8::1",
        "[2001:db8::1]443",
        "[2001:db8::1]:",
        "[[2001:db8::1]]",
        "2001:db8::1]:443",
        "fe80::1%eth0",
        "::1::",
        "192.0.2.1\n",
        "192.0.2.1 ",
        "1" * 57,
        "[" * 56,
        ":" * 56,
    ],
)
def test_what_is_no_address_is_none(text: str) -> None:
    """Nothing is repaired, trimmed or guessed."""
    assert parse_address(text) is None


@given(st.ip_addresses(), st.integers(0, 65535))
def test_every_address_is_read_back(address: object, port: int) -> None:
    """What Python writes, with or without a port, is read as the same address."""
    wanted = ip_address(str(address))
    mapped = getattr(wanted, "ipv4_mapped", None)
    wanted = mapped or wanted
    assert parse_address(str(address)) == wanted
    assert parse_address(f"[{address}]:{port}" if ":" in str(address) else f"{address}:{port}") == wanted


def test_networks_hold_what_is_inside_of_them() -> None:
    """Each family its own; a mapped network holds IPv4 addresses."""
    networks = Networks(["198.18.0.0/15", "2001:db8::/32", "192.0.2.7", "::ffff:198.51.100.0/120"], name="trusted")

    def inside(text: str) -> bool:
        address = parse_address(text)
        assert address is not None
        return address in networks

    assert all(map(inside, ["198.19.0.1", "2001:db8:1::1", "192.0.2.7", "198.51.100.9", "::ffff:198.18.0.1"]))
    assert not any(map(inside, ["11.0.0.1", "2001:db9::1", "192.0.2.8", "198.51.101.9", "::198.18.0.1", "::c612:1"]))
    assert bool(networks)
    assert not Networks([], name="none")


@pytest.mark.parametrize(
    "everybody",
    [
        ["*"],
        ["0.0.0.0/0"],
        ["::/0"],
        ["any"],
        ["0.0.0.0/1", "128.0.0.0/1"],
        ["::/1", "8000::/1"],
        ["::ffff:0:0/96"],
        ["::fffe:0:0/95"],
        ["198.18.0.0/15", "*"],
    ],
)
def test_a_wildcard_is_refused(everybody: list[str]) -> None:
    """However it is written, also in halves and in the mapped form."""
    with pytest.raises(ConfigurationError, match="every"):
        Networks(everybody, name="trusted")


@pytest.mark.parametrize("text", ["", "198.18.0.1/15", "198.18.0.0/33", "proxy.example", "198.18.0.0-198.18.0.9"])
def test_a_network_that_cannot_be_read_is_refused(text: str) -> None:
    """At startup, by name, with the form that is expected."""
    with pytest.raises(ConfigurationError, match=r"trusted: .*CIDR"):
        Networks([text], name="trusted")


def test_one_text_is_not_several_networks() -> None:
    """A text would be read letter by letter."""
    with pytest.raises(ConfigurationError, match="not one text"):
        Networks("198.18.0.0/15", name="trusted")
