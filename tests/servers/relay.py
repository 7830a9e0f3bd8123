"""A TCP relay that cuts a connection at the worst moment: around the answer to one request."""

from __future__ import annotations

import enum
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress

__all__ = ["Cut", "Relay", "relay_to"]


class Cut(enum.Enum):
    """Where the next request is lost. A client cannot tell the two apart."""

    BEFORE_SERVER = "the request never reaches the server"
    AFTER_SERVER = "the server has carried it out, its answer is lost"


class Relay:
    """Passes bytes between clients and one server until told to cut.

    It knows no protocol, so it works under TLS as well: arm it when the connection is idle, and the next bytes the
    client sends are the request.
    """

    def __init__(self, host: str, port: int) -> None:
        self._target = (host, port)
        self._listener = socket.create_server((host, 0))
        self.port: int = self._listener.getsockname()[1]
        self._cut: Cut | None = None
        self._sockets: list[socket.socket] = []
        self._threads: list[threading.Thread] = []
        self._start(self._accept)

    def cut_next_request(self, cut: Cut) -> None:
        """Lose the next request, and the connection with it."""
        self._cut = cut

    def close(self) -> None:
        """Cut every connection and stop listening."""
        self._shut(self._listener, *self._sockets)
        for thread in self._threads:
            thread.join(timeout=5)

    def _start(self, run: object, *arguments: object) -> None:
        thread = threading.Thread(target=run, args=arguments, daemon=True)  # type: ignore[arg-type]
        self._threads.append(thread)
        thread.start()

    def _accept(self) -> None:
        with suppress(OSError):
            while True:
                client, _ = self._listener.accept()
                server = socket.create_connection(self._target)
                self._sockets += [client, server]
                self._start(self._pass_requests, client, server)
                self._start(self._pass_answers, client, server)

    def _pass_requests(self, client: socket.socket, server: socket.socket) -> None:
        with suppress(OSError):
            while request := client.recv(65536):
                if self._cut is Cut.BEFORE_SERVER:
                    break
                server.sendall(request)
        if self._cut is not Cut.AFTER_SERVER:
            self._shut(client, server)

    def _pass_answers(self, client: socket.socket, server: socket.socket) -> None:
        with suppress(OSError):
            while answer := server.recv(65536):
                if self._cut is Cut.AFTER_SERVER:
                    break
                client.sendall(answer)
        self._shut(client, server)

    @staticmethod
    def _shut(*sockets: socket.socket) -> None:
        for each in sockets:
            with suppress(OSError):
                each.shutdown(socket.SHUT_RDWR)
            each.close()


@contextmanager
def relay_to(host: str, port: int) -> Iterator[Relay]:
    """A relay for the length of a block."""
    relay = Relay(host, port)
    try:
        yield relay
    finally:
        relay.close()
