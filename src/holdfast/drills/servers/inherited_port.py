"""A port of this network for a server that runs in another one: made here, and inherited, since a socket stays where it was made.

    port = InheritedPort("127.0.0.2", 20_000, folder / "socket")
    with log.open("ab") as file:
        process = port.start(seat.enter("mysql"), ["mariadbd", ...], file)

Nobody stands between the server and its clients: it accepts from the kernel as it always does, and when it dies, they see that.
It takes its sockets the way systemd hands them over (`LISTEN_FDS`), as MariaDB does from 10.6 on.

It wants them listening when it begins, though it serves only later, and a client would be let in to wait. So until the server
greets, the port is bound to a network device that does not exist: whoever connects is refused, as by a server that is not up yet.
"""

from __future__ import annotations

import socket
import subprocess
import threading
from collections.abc import Sequence
from pathlib import Path
from typing import IO

from .private_network import NetworkForbidden
from .process import ServerFailed

__all__ = ["InheritedPort", "check_possible"]

_SO_BINDTOIFINDEX = 62  # Linux 5.1; Python has no name for it
_NO_DEVICE = 2**31 - 1
_BACKLOG = 80
_CLOSED_WITHIN_S = 20.0
_RENUMBER = ["sh", "-c", 'exec 3<&0 4<&1 </dev/null >&2; LISTEN_PID=$$ LISTEN_FDS=2 exec "$@"', "sh"]
"""In front of the server's command: gives the sockets the numbers under which it looks for them."""


def check_possible() -> None:
    """Whether this kernel can keep a port shut that is bound already.

    Raises:
        NetworkForbidden: it is older than 5.1.
    """
    with socket.socket() as tried:
        _shut(tried)


def _shut(listener: socket.socket) -> None:
    try:
        listener.setsockopt(socket.SOL_SOCKET, _SO_BINDTOIFINDEX, _NO_DEVICE)
    except OSError as error:
        raise NetworkForbidden(f"no port can be kept shut here: {error}") from error


class InheritedPort:
    """A TCP port and a Unix socket for one start of a server.

    Args:
        host, port: where clients connect to.
        path: the Unix socket; one that an earlier server left is replaced.

    Raises:
        NetworkForbidden: the kernel is older than 5.1.
        OSError: the port is taken.
    """

    def __init__(self, host: str, port: int, path: Path) -> None:
        self._path = path
        self._tcp = socket.socket()
        self._unix = socket.socket(socket.AF_UNIX)
        self._probe = socket.socket(socket.AF_UNIX)
        self._thread = threading.Thread(target=self._open_when_greeted, name="inherited-port", daemon=True)
        try:
            self._bind(host, port)
        except BaseException:
            self._close()
            raise

    def _bind(self, host: str, port: int) -> None:
        self._tcp.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        _shut(self._tcp)
        self._tcp.bind((host, port))
        self._tcp.listen(_BACKLOG)
        self._path.unlink(missing_ok=True)
        self._unix.bind(str(self._path))
        self._path.chmod(0o777)
        self._unix.listen(_BACKLOG)
        self._probe.connect(str(self._path))

    def start(self, way: Sequence[str], command: Sequence[str], log: IO[bytes]) -> subprocess.Popen[bytes]:
        """Start the server that inherits them; once. Clients are let in as soon as it greets, and refused when it has ended.

        Args:
            way: what leads to where it runs, in front of the command.
            command: the server, in the foreground.
            log: for what it prints.
        """
        try:
            process = subprocess.Popen[bytes](
                [*way, *_RENUMBER, *command],
                stdin=self._tcp.fileno(),
                stdout=self._unix.fileno(),
                stderr=log,
                cwd=self._path.parent,
                start_new_session=True,  # Ctrl-C goes to the caller, who then stops the server in good order
            )
        except BaseException:
            self._close()
            raise
        self._unix.close()  # from now on the server's alone: the probe hears of its end
        self._thread.start()
        return process

    def wait_until_shut(self) -> None:
        """Wait until a server that has ended is known to have, so that another may take the port.

        Raises:
            ServerFailed: it still runs.
        """
        self._thread.join(_CLOSED_WITHIN_S)
        if self._thread.is_alive():
            raise ServerFailed(f"whoever inherited {self._path} still holds it")

    def _open_when_greeted(self) -> None:
        try:
            if self._probe.recv(1):
                self._tcp.setsockopt(socket.SOL_SOCKET, _SO_BINDTOIFINDEX, 0)
        except ConnectionError:
            pass  # ended before it served
        finally:
            self._close()

    def _close(self) -> None:
        for each in (self._tcp, self._unix, self._probe):
            each.close()
