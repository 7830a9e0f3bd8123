"""What a drill may harm: this machine's addresses, those that its user named, and servers that it started itself.

    addresses = check_target("db.example", allowed={"db.example"})     # every address of the name, or ConfigurationError
    check_started(place.server, "kill-server")                          # a server of the drill's own, or ConfigurationError

A name is asked for its addresses each time: what `localhost` or a name in `/etc/hosts` leads to is decided there, not by how it
reads. Whoever connects afterwards should take the addresses that came back, since the name may lead elsewhere by then. Processes
are signalled through the handle of whoever started them (`crew.py`, `servers/`), never by a bare id.
"""

from __future__ import annotations

import socket
from collections.abc import Callable, Collection
from ipaddress import IPv6Address, ip_address
from typing import Any, TypeVar

from ..errors import ConfigurationError

__all__ = ["check_started", "check_target"]

T = TypeVar("T")

Resolve = Callable[..., list[Any]]
"""Called as `socket.getaddrinfo(host, None)`."""


def check_target(host: str, allowed: Collection[str] = (), *, resolve: Resolve | None = None) -> tuple[str, ...]:
    """The addresses of `host`, if a drill may harm it.

    Args:
        host: a name or an address, without port; one that begins with `/` is the folder of a socket on this machine.
        allowed: the hosts that the user named as theirs to break, each as it stands in the URL; case does not matter.
        resolve: answers as `socket.getaddrinfo`, which it is by default.

    Returns:
        The addresses; empty for the folder of a socket, and for an allowed name that leads nowhere just now.

    Raises:
        ConfigurationError: an address of it is not this machine's loopback, or it has none, and it is not in `allowed`; or it
            is empty.
    """
    if host.startswith("/"):
        return ()
    if not host.strip():
        raise ConfigurationError("a drill needs to know whom it harms: name the host")
    named = _plain(host) in {_plain(each) for each in allowed}
    try:
        found = (resolve or socket.getaddrinfo)(host.strip().strip("[]"), None)
    except (OSError, UnicodeError) as error:
        if named:
            return ()
        raise ConfigurationError(f"{host} leads nowhere, so nobody knows whom the drill would harm: {error}") from error
    addresses = tuple(dict.fromkeys(str(address[4][0]) for address in found))
    foreign = [address for address in addresses if not _is_loopback(address)]
    if not named and (foreign or not addresses):
        where = f" ({', '.join(foreign)})" if foreign and foreign != [host] else ""
        raise ConfigurationError(
            f"{host}{where} is not this machine, and a drill cuts connections and provokes errors. "
            f"If nobody depends on it, name it: --may-break {host}"
        )
    return addresses


def check_started(server: T | None, fault: str) -> T:
    """`server`, if the drill started one.

    Args:
        server: the server that was started for the drill, or None where a database was given.
        fault: the name of the fault that would harm it, for the text.

    Raises:
        ConfigurationError: it is None.
    """
    if server is None:
        raise ConfigurationError(
            f"the fault {fault!r} stops the server, or changes its settings for everybody, so it needs one of the drill's own: "
            "leave the database URL out and choose --server"
        )
    return server


def _plain(host: str) -> str:
    return host.strip().strip("[]").rstrip(".").lower()


def _is_loopback(text: str) -> bool:
    try:
        address = ip_address(text.partition("%")[0])
    except ValueError:
        return False
    if isinstance(address, IPv6Address) and address.ipv4_mapped is not None:
        return address.ipv4_mapped.is_loopback
    return address.is_loopback
