"""A small HTTP server on loopback that publishes keys, and misbehaves when told to."""

from __future__ import annotations

import asyncio
import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

__all__ = ["KeyServer", "key_server"]


class KeyServer:
    """What it answers, and how often it was asked.

    Attributes:
        keys: what is published.
        body: answered instead of the keys, if not None.
        status, headers: of the answer.
        asked: requests so far.
        seen: the headers of the last one.
        gate: answers wait until it is set.
        endless: the body never ends.
        url: where.
    """

    def __init__(self) -> None:
        self.keys: list[Any] = []
        self.body: bytes | None = None
        self.status = 200
        self.headers: dict[str, str] = {}
        self.asked = 0
        self._changed = threading.Condition()
        self.seen: dict[str, str] = {}
        self.gate = threading.Event()
        self.gate.set()
        self.endless = False
        self.url = ""

    def ask(self) -> None:
        """Count a request."""
        with self._changed:
            self.asked += 1
            self._changed.notify_all()

    async def was_asked(self, times: int = 1) -> None:
        """Wait until `times` requests have come; a failure after half a minute."""
        await asyncio.to_thread(self._wait, times)

    def _wait(self, times: int) -> None:
        with self._changed:
            assert self._changed.wait_for(lambda: self.asked >= times, 30), f"{self.asked} requests, not {times}"

    def document(self) -> bytes:
        """The body to send."""
        return json.dumps({"keys": self.keys}).encode() if self.body is None else self.body


@contextmanager
def key_server() -> Iterator[KeyServer]:
    """A server that runs meanwhile, in threads."""
    state = KeyServer()

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            state.seen = {name.lower(): value for name, value in self.headers.items()}
            state.ask()
            state.gate.wait(30)
            self.send_response(state.status)
            for name, value in state.headers.items():
                self.send_header(name, value)
            body = state.document()
            if not state.endless:
                self.send_header("content-length", str(len(body)))
            self.end_headers()
            try:
                self.wfile.write(body)
                while state.endless:
                    self.wfile.write(b" " * 4096)
            except OSError:
                pass  # the client had enough

        def log_message(self, *_: Any) -> None:
            """Say nothing."""

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        server.daemon_threads = True
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05})
        thread.start()
        state.url = f"http://127.0.0.1:{server.server_address[1]}/keys.json"
        try:
            yield state
        finally:
            state.gate.set()
            state.endless = False
            server.shutdown()
            thread.join()
