"""Calling an ASGI application directly: what a server would do, one request at a time, every message kept.

answer = await call(app, "POST", "/users", {"Idempotency-Key": "k"}, b"{}")
assert answer.status == 201

connection = Connection(http_scope("POST", "/users"))       # in steps: bodies that come in pieces, clients that hang up
task = connection.start(app)
connection.push(b"half", more=True)
connection.hang_up()
answer = await connection.answer()
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from holdfast.asgi.interface import App, Message, Receive, Scope, Send

__all__ = ["Answer", "Connection", "Echo", "HeadersIn", "answering", "call", "http_scope", "run_lifespan", "until"]

HeadersIn = Mapping[str, str] | Iterable[tuple[bytes, bytes]]


@dataclass
class Answer:
    """What came back.

    Attributes:
        messages: everything the application sent, in order.
        error: what it raised, if anything: a server would end the connection.
    """

    messages: list[dict[str, Any]] = field(default_factory=list)
    error: BaseException | None = None

    @property
    def status(self) -> int:
        """The status; a failure if no response was begun."""
        starts = [message for message in self.messages if message["type"] == "http.response.start"]
        assert len(starts) == 1, f"{len(starts)} responses were begun; the application raised {self.error!r}"
        return int(starts[0]["status"])

    @property
    def headers(self) -> list[tuple[bytes, bytes]]:
        """The headers, in order."""
        found = next(message for message in self.messages if message["type"] == "http.response.start")
        return list(found["headers"])

    def header(self, name: str) -> str | None:
        """The value of a header, or None; a failure if it is there twice."""
        values = [value.decode("latin-1") for known, value in self.headers if known == name.lower().encode()]
        assert len(values) <= 1, f"{name} is there {len(values)} times"
        return values[0] if values else None

    @property
    def body(self) -> bytes:
        """The whole body."""
        bodies = [message.get("body", b"") for message in self.messages if message["type"] == "http.response.body"]
        return b"".join(bodies)

    @property
    def complete(self) -> bool:
        """Whether the response was begun and ended."""
        return bool(self.messages) and (
            self.messages[-1]["type"] == "http.response.body" and not self.messages[-1].get("more_body", False)
        )

    @property
    def json(self) -> Any:
        """The body, parsed."""
        return json.loads(self.body)


def http_scope(
    method: str = "GET",
    path: str = "/",
    headers: HeadersIn = (),
    *,
    client: tuple[str, int] | None = ("192.0.2.1", 50000),
    **more: Any,
) -> dict[str, Any]:
    """The scope of a request, as uvicorn would make it. `more` overrides or adds members (`state`, `query_string`...)."""
    if isinstance(headers, Mapping):
        headers = [(name.lower().encode("latin-1"), value.encode("latin-1")) for name, value in headers.items()]
    return {
        "type": "http",
        "asgi": {"version": "3.0", "spec_version": "2.4"},
        "http_version": "1.1",
        "method": method,
        "scheme": "http",
        "path": path,
        "raw_path": path.encode("utf-8", "surrogatepass"),
        "query_string": b"",
        "root_path": "",
        "headers": list(headers),
        "client": client,
        "server": ("192.0.2.10", 80),
        "state": {},
        **more,
    }


class Connection:
    """One request in the hands of a test, which plays server and client.

    `receive` gives what was pushed, in order, and waits where there is nothing; after `hang_up` it gives `http.disconnect` for
    ever, and `send` raises OSError if `send_fails`. After a complete response `receive` gives `http.disconnect`, as servers do.
    """

    def __init__(self, scope: Scope, *, send_fails: bool = True) -> None:
        self.scope = scope
        self.received = 0
        self._answer = Answer()
        self._incoming: asyncio.Queue[dict[str, Any]] = asyncio.Queue()
        self._gone = False
        self._send_fails = send_fails
        self._task: asyncio.Task[None] | None = None

    def push(self, body: bytes = b"", *, more: bool = False) -> None:
        """A piece of the request's body arrives."""
        self._incoming.put_nowait({"type": "http.request", "body": body, "more_body": more})

    def hang_up(self) -> None:
        """The client goes away."""
        self._gone = True
        self._incoming.put_nowait({"type": "http.disconnect"})

    async def receive(self) -> Message:
        """The `receive` the application is called with."""
        message = await self._incoming.get()
        self.received += 1
        if message["type"] == "http.disconnect":
            self._incoming.put_nowait(message)  # it stays true
        return message

    async def send(self, message: Message) -> None:
        """The `send` the application is called with; gives way once, as a real one may."""
        await asyncio.sleep(0)  # noqa: TID251 - gives way, waits for no time
        if self._gone and self._send_fails:
            raise OSError("the client is gone")
        self._answer.messages.append(dict(message))
        if self._answer.complete:
            self._incoming.put_nowait({"type": "http.disconnect"})

    def start(self, app: App) -> asyncio.Task[None]:
        """Call the application in a task of its own, as a server does."""
        self._task = asyncio.create_task(self._run(app))
        return self._task

    async def _run(self, app: App) -> None:
        await app(self.scope, self.receive, self.send)

    async def answer(self) -> Answer:
        """Wait for the application to end, and say what came back."""
        assert self._task is not None, "start it first"
        try:
            await self._task
        except (Exception, asyncio.CancelledError) as error:
            self._answer.error = error
        return self._answer

    @property
    def so_far(self) -> Answer:
        """What came back up to now."""
        return self._answer


async def call(
    app: App,
    method: str = "GET",
    path: str = "/",
    headers: HeadersIn = (),
    body: bytes | Iterable[bytes] = b"",
    **more: Any,
) -> Answer:
    """One whole request. `body` in pieces arrives in pieces; `more` goes to `http_scope`."""
    connection = Connection(http_scope(method, path, headers, **more))
    pieces = [body] if isinstance(body, bytes) else list(body)
    for number, piece in enumerate(pieces, start=1):
        connection.push(piece, more=number < len(pieces))
    connection.start(app)
    return await connection.answer()


def answering(status: int = 200, body: bytes = b"done", headers: Iterable[tuple[bytes, bytes]] = ()) -> App:
    """An application that answers the same every time and reads nothing."""

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await send({"type": "http.response.start", "status": status, "headers": list(headers)})
        await send({"type": "http.response.body", "body": body})

    return app


class Echo:
    """An application that reads the whole body and sends it back, and counts its calls.

    Attributes:
        calls: how often it was called.
        bodies: what it read, each time.
    """

    def __init__(self, status: int = 200) -> None:
        self.status = status
        self.calls = 0
        self.bodies: list[bytes] = []

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request; ends quietly when the client is gone."""
        self.calls += 1
        body = b""
        more = True
        while more:
            message = await receive()
            if message["type"] == "http.disconnect":
                return
            body += message.get("body", b"")
            more = message.get("more_body", False)
        self.bodies.append(body)
        await send({"type": "http.response.start", "status": self.status, "headers": []})
        await send({"type": "http.response.body", "body": body})


async def run_lifespan(app: App) -> list[str]:
    """Start and stop `app`; the types of what it answered."""
    said: list[str] = []
    events = iter(("lifespan.startup", "lifespan.shutdown"))

    async def receive() -> Message:
        return {"type": next(events)}

    async def send(message: Message) -> None:
        said.append(str(message["type"]))

    await app({"type": "lifespan", "asgi": {"version": "3.0"}, "state": {}}, receive, send)
    return said


async def until(condition: Callable[[], object], *, turns: int = 100_000) -> None:
    """Give way until `condition` holds; a failure if that takes more `turns` of the loop than anything here needs."""
    for _ in range(turns):
        if condition():
            return
        await asyncio.sleep(0)  # noqa: TID251 - gives way, waits for no time
    raise AssertionError("it never became true")
