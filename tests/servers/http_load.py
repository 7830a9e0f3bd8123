"""HTTP clients that neither retry nor hide anything, many at once, and the balancer in front of them."""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import Awaitable, Callable
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Self

from holdfast.clock import new_token

__all__ = ["Answer", "Balancer", "Connection", "Load", "ask", "hand_over", "is_ready"]

HOST = "127.0.0.1"
CLIENTS = 50


@dataclass
class Answer:
    """One whole answer."""

    status: int
    headers: dict[str, str]
    body: bytes

    @property
    def closes(self) -> bool:
        return self.headers.get("connection", "").lower() == "close"


class Connection:
    """One connection of a client that neither retries nor hides anything."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader = reader
        self.writer = writer

    @classmethod
    async def open(cls, port: int, context: ssl.SSLContext | None = None) -> Connection:
        return cls(*await asyncio.open_connection(HOST, port, ssl=context, server_hostname="shop" if context else None))

    async def ask(self, path: str, method: str = "GET", *, headers: str = "", body: bytes = b"") -> Answer:
        """Send one request and read the whole answer. `headers` are lines that end in CRLF.

        Raises:
            EOFError, ConnectionError: it was lost.
        """
        head = f"{method} {path} HTTP/1.1\r\nhost: test\r\ncontent-length: {len(body)}\r\n{headers}\r\n"
        self.writer.write(head.encode() + body)
        await self.writer.drain()
        lines = (await self.reader.readuntil(b"\r\n\r\n")).decode().split("\r\n")
        found = {name.lower(): value.strip() for name, _, value in (line.partition(":") for line in lines[1:] if line)}
        if "content-length" in found:
            content = await self.reader.readexactly(int(found["content-length"]))
        else:
            content = await self.reader.read()
        return Answer(int(lines[0].split()[1]), found, content)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    async def close(self) -> None:
        self.writer.close()
        with suppress(OSError):
            await self.writer.wait_closed()


async def ask(port: int, path: str, context: ssl.SSLContext | None = None) -> Answer:
    """One request on a connection of its own."""
    async with await Connection.open(port, context) as connection:
        return await connection.ask(path)


async def is_ready(port: int) -> bool:
    try:
        return (await ask(port, "/readyz")).status == 200
    except (EOFError, OSError):
        return False


@dataclass
class Load:
    """What clients saw.

    Attributes:
        choose: the port that a new connection goes to: the balancer.
        save: how something new is saved, by its name.
        read: how something else is asked for.
        think_s: how long a busy client waits between an answer and its next request.
        saved: what was acknowledged.
        saves, sent: how many saves, and requests of every kind, were sent.
        lost: requests without a good answer, and why.
        told: how often an answer said that its connection closes.
    """

    choose: Callable[[], int]
    save: Callable[[Connection, str], Awaitable[Answer]]
    read: Callable[[Connection], Awaitable[Answer]]
    think_s: float = 0.25
    saved: list[str] = field(default_factory=list)
    saves: int = 0
    sent: int = 0
    lost: list[str] = field(default_factory=list)
    told: int = 0
    ends: bool = False

    async def request(self, connection: Connection) -> bool:
        """Save something new every fourth time, ask for something otherwise; whether the connection can be used again."""
        self.sent += 1
        name = new_token() if self.sent % 4 == 0 else None
        self.saves += name is not None
        try:
            answer = await (self.read(connection) if name is None else self.save(connection, name))
        except (EOFError, OSError) as error:
            self.lost.append(type(error).__name__)
            return False
        if not 200 <= answer.status < 300:
            self.lost.append(f"{answer.status} {answer.body.decode()}")
        elif name is not None:
            self.saved.append(name)
        self.told += answer.closes
        return not answer.closes

    async def connect(self) -> Connection | None:
        try:
            return await Connection.open(self.choose())
        except OSError as error:
            self.lost.append(f"connect: {type(error).__name__}")
            return None

    async def busy(self) -> None:
        """Ask, think a little, ask again, on one connection as long as it lasts."""
        while not self.ends:
            connection = await self.connect()
            if connection is None:
                return
            while await self.request(connection) and not self.ends:  # noqa: ASYNC110 - a pace, not a wait
                await asyncio.sleep(self.think_s)
            await connection.close()

    async def fresh(self) -> None:
        """Every 20 ms another connection with one request, unless as many are under way as there are busy clients.

        Without that bound a machine that is too slow for the pace gets ever further behind, until every wait is too long.
        """
        under_way: set[asyncio.Task[None]] = set()
        async with asyncio.TaskGroup() as group:
            while not self.ends:
                if len(under_way) < CLIENTS:
                    one = group.create_task(self.once())
                    under_way.add(one)
                    one.add_done_callback(under_way.discard)
                await asyncio.sleep(0.02)

    async def once(self) -> None:
        connection = await self.connect()
        if connection is not None:
            await self.request(connection)
            await connection.close()


class Balancer:
    """Sends new connections to the first process that says it is ready, as a load balancer does that probes `/readyz`."""

    def __init__(self, *ports: int) -> None:
        self.ports = ports
        self.ready = list(ports)

    def choose(self) -> int:
        return self.ready[0]

    async def probe(self) -> None:
        async with asyncio.TaskGroup() as group:
            for port in self.ports:
                group.create_task(self._probe(port))

    async def _probe(self, port: int) -> None:
        """Each by itself: one that is slow to answer does not keep the news of another."""
        while True:
            ready = await is_ready(port)
            now = [each for each in self.ports if (ready if each == port else each in self.ready)]
            self.ready = now or self.ready
            await asyncio.sleep(0.2)


async def hand_over(load: Load, end: Callable[[], Awaitable[object]]) -> None:
    """50 busy clients and a new one every 20 ms while `end` has the old process end, and waits for that."""
    clients = [asyncio.create_task(load.busy()) for _ in range(CLIENTS)]
    clients.append(asyncio.create_task(load.fresh()))
    await asyncio.sleep(2)
    before = load.sent
    await end()
    during = load.sent - before
    await asyncio.sleep(1)
    load.ends = True
    await asyncio.gather(*clients)
    assert before > 0
    assert during > 0
