"""IP addresses and networks, read strictly: what cannot be read is no address, never a guess.

    internal = Networks(["198.51.100.0/24", "2001:db8::/32"], name="trusted")
    parse_address("[2001:db8::1]:443") in internal

An IPv4 address that is written as an IPv6 one (`::ffff:192.0.2.1`) is the IPv4 address: a listener on `::` shows it so, and a
rule for one form must hold for the other.
"""

from __future__ import annotations

from collections.abc import Iterable
from functools import lru_cache
from ipaddress import (
    AddressValueError,
    IPv4Address,
    IPv4Network,
    IPv6Address,
    IPv6Network,
    collapse_addresses,
    ip_network,
)

from ..errors import ConfigurationError

__all__ = ["ADDRESS_MAX", "Address", "Networks", "parse_address"]

Address = IPv4Address | IPv6Address

ADDRESS_MAX = 56
"""Characters of the longest address that is read: IPv6 with an IPv4 end (45), brackets, a colon and a port."""

_MAPPED = IPv6Network("::ffff:0:0/96")
_CHARACTERS = frozenset("0123456789abcdefABCDEF.:[]")


@lru_cache(maxsize=4096)
def parse_address(text: str) -> Address | None:
    """The address in `text`, or None if it is none; pure.

    Read are `192.0.2.1`, `192.0.2.1:443`, `2001:db8::1`, `[2001:db8::1]` and `[2001:db8::1]:443`; ports are checked and
    dropped. Not read are zones (`%eth0`), leading zeros, names, `unknown` and anything longer than 56 characters. What was read
    is remembered, 4096 texts of at most that length.
    """
    if not 2 <= len(text) <= ADDRESS_MAX or not _CHARACTERS.issuperset(text):
        return None
    host = text
    if text[0] == "[":
        host, bracket, rest = text[1:].partition("]")
        if not bracket or ":" not in host or (rest and not (rest[0] == ":" and _is_port(rest[1:]))):
            return None
    elif text.count(":") == 1:
        host, _, port = text.partition(":")
        if not _is_port(port):
            return None
    try:
        if ":" not in host:
            return IPv4Address(host)
        address = IPv6Address(host)
    except AddressValueError:
        return None
    return address.ipv4_mapped or address


def _is_port(text: str) -> bool:
    return 1 <= len(text) <= 5 and text.isascii() and text.isdigit() and int(text) <= 65535


class Networks:
    """Some networks. Immutable; share it freely.

    Args:
        networks: addresses and networks in CIDR notation; none at all is allowed, and contains nobody.
        name: what to call them in errors.

    Raises:
        ConfigurationError: one cannot be read, has bits set beyond its length (`192.0.2.1/24`), or together they hold every
            address there is.
    """

    __slots__ = ("_four", "_six", "_texts")

    def __init__(self, networks: Iterable[str], *, name: str) -> None:
        if isinstance(networks, str):
            raise ConfigurationError(f"{name} must be several networks, not one text; write [{networks!r}]")
        four: list[IPv4Network] = []
        six: list[IPv6Network] = []
        for text in networks:
            network = _network(text, name)
            if isinstance(network, IPv4Network):
                four.append(network)
            else:
                six.append(network)
        # Collapsed first: two halves of everything are everything.
        four_all, six_all = list(collapse_addresses(four)), list(collapse_addresses(six))
        if any(one.prefixlen == 0 for one in four_all) or any(one.prefixlen == 0 for one in six_all):
            raise _everybody(name)
        self._four = tuple((int(network.netmask), int(network.network_address)) for network in four_all)
        self._six = tuple((int(network.netmask), int(network.network_address)) for network in six_all)
        self._texts = tuple(str(network) for network in (*four_all, *six_all))

    def __contains__(self, address: Address) -> bool:
        number = int(address)
        for mask, start in self._four if address.version == 4 else self._six:  # noqa: SIM110 - every request comes here
            if number & mask == start:
                return True
        return False

    def __bool__(self) -> bool:
        return bool(self._texts)

    def __repr__(self) -> str:
        return f"<Networks {', '.join(self._texts) or 'none'}>"


def _everybody(name: str) -> ConfigurationError:
    return ConfigurationError(
        f"{name} would hold every address there is, so that anybody could claim to be anybody: name the addresses of the "
        "proxies or networks that are meant"
    )


def _network(text: str, name: str) -> IPv4Network | IPv6Network:
    if text.strip() in {"*", "any", "all", "0/0"}:
        raise _everybody(name)
    try:
        network = ip_network(text.strip())
    except ValueError:
        raise ConfigurationError(
            f"{name}: {text!r} is no network; write an address or CIDR notation without bits beyond its length (192.0.2.0/24)"
        ) from None
    if isinstance(network, IPv6Network) and network.prefixlen >= 96 and network.subnet_of(_MAPPED):
        mapped = network.network_address.ipv4_mapped
        assert mapped is not None
        return IPv4Network((int(mapped), network.prefixlen - 96))
    if isinstance(network, IPv6Network) and _MAPPED.subnet_of(network) and network.prefixlen > 0:
        raise ConfigurationError(
            f"{name}: {text!r} holds every IPv4 address in its mapped form; name narrower networks"
        )
    return network
