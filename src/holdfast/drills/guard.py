"""What a drill may harm: this machine's addresses, those that its user named, and processes that it started itself.

    addresses = check_target("db.example", allowed={"db.example"})     # every address of the name, or ConfigurationError
    process = OwnProcess(popen.pid)                                     # ours, or ConfigurationError
    process.send(signal.SIGKILL)                                        # that very process, or nobody
    check_started(place.server, "kill-server")                          # a server of the drill's own, or ConfigurationError

A name is asked for its addresses each time: what `localhost` or a name in `/etc/hosts` leads to is decided there, not by how it
reads. Whoever connects afterwards should take the addresses that came back, since the name may lead elsewhere by then.
"""

from __future__ import annotations

import os
import signal
import socket
from collections.abc import Callable, Collection
from ipaddress import IPv6Address, ip_address
from typing import Any, TypeVar

import psutil

from ..errors import ConfigurationError

__all__ = ["OwnProcess", "check_started", "check_target"]

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


class OwnProcess:
    """A process that this one started, directly or through others; known by its id and the moment it began.

    Process ids are used again: a signal to a bare id may meet a stranger. Safe to share between threads.

    Args:
        pid: its id.

    Raises:
        ConfigurationError: there is none, or this process did not start it, or it is this process itself.
    """

    def __init__(self, pid: int) -> None:
        try:
            self._process = psutil.Process(pid)
            ancestors = {each.pid for each in self._process.parents()}
        except (psutil.Error, ValueError) as error:
            raise ConfigurationError(f"there is no process {pid} to harm") from error
        if os.getpid() not in ancestors:
            raise ConfigurationError(f"process {pid} was not started by this drill, which harms none but its own")

    def __repr__(self) -> str:
        return f"<OwnProcess {self._process.pid}>"

    @property
    def pid(self) -> int:
        """Its id."""
        return self._process.pid

    @property
    def is_running(self) -> bool:
        """Whether that very process still runs; a zombie does not."""
        return self._process.is_running() and self._process.status() != psutil.STATUS_ZOMBIE

    def send(self, sent: signal.Signals) -> bool:
        """Send it a signal, if it is still that process; whether it was."""
        try:
            self._process.send_signal(sent)  # compares the moment it began, and refuses a stranger
        except psutil.NoSuchProcess:
            return False
        return True


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
