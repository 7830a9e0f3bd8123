"""The application that the tests of draining run in processes of their own: saves, streams, hangs, and says who asks.

Its settings come from the environment: `DRAIN_DATABASE` (the SQLite file), `DRAIN_LOG` (a file it notes what happens in).
"""

from __future__ import annotations

import asyncio
import json
import os
import threading
from pathlib import Path
from typing import Any

from sqlalchemy import String
from sqlalchemy.ext.asyncio import AsyncSession
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column

from holdfast.asgi.health import HealthEndpoints
from holdfast.asgi.interface import Message, Receive, Scope, Send
from holdfast.asgi.peer import peer_of
from holdfast.ext.sqlalchemy import AsyncDatabase, DatabaseSettings
from holdfast.health import Health
from holdfast.shutdown import DRAIN, draining

LOG = Path(os.environ["DRAIN_LOG"])
DATABASE = os.environ.get("DRAIN_DATABASE", "")


class Base(DeclarativeBase):
    pass


class Saved(Base):
    """What was acknowledged must be here, once."""

    __tablename__ = "saved"

    id: Mapped[str] = mapped_column(String(40), primary_key=True)


def note(what: str) -> None:
    with LOG.open("a") as log:
        log.write(f"{what}\n")


class Service:
    """Everything the tests need of a service."""

    def __init__(self) -> None:
        self.db: AsyncDatabase | None = None

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            await self.live(receive, send)
        elif scope["type"] == "websocket":
            await self.websocket(scope, receive, send)
        else:
            _, name, *rest = scope["path"].split("/")
            await getattr(self, name)(scope, send, *rest)

    async def live(self, receive: Receive, send: Send) -> None:
        await receive()
        if DATABASE:
            self.db = db = AsyncDatabase(f"sqlite:///{DATABASE}", DatabaseSettings(deadline=60))
            await db.migrate(Base.metadata)
            DRAIN.on_close("database", db.close)
        DRAIN.on_flush("outbox", lambda: note("flushed"))
        DRAIN.on_close("note", lambda: note("closed"))
        await send({"type": "lifespan.startup.complete"})
        await receive()
        note("application")
        await send({"type": "lifespan.shutdown.complete"})

    async def save(self, scope: Scope, send: Send, name: str) -> None:
        """Take a moment, save, acknowledge."""
        await asyncio.sleep(0.02)
        assert self.db is not None

        async def insert(tx: AsyncSession) -> None:
            tx.add(Saved(id=name))

        await self.db.run(insert)
        await answer(send, {"saved": name})

    async def slow(self, scope: Scope, send: Send, seconds: str) -> None:
        await asyncio.sleep(float(seconds))
        await answer(send, {"slept": seconds})

    async def hang(self, scope: Scope, send: Send) -> None:
        note("hanging")
        try:
            await asyncio.Event().wait()
        finally:
            await asyncio.sleep(0.2)
            note("cleaned")

    async def stuck(self, scope: Scope, send: Send) -> None:
        """Leave a thread behind that never ends."""
        threading.Thread(target=threading.Event().wait, name="stuck").start()
        await answer(send, {})

    async def events(self, scope: Scope, send: Send) -> None:
        """A stream of events that ends when the service does."""
        head = [(b"content-type", b"text/event-stream")]
        await send({"type": "http.response.start", "status": 200, "headers": head})
        await send({"type": "http.response.body", "body": b"data: 1\n\n", "more_body": True})
        await draining()
        await send({"type": "http.response.body", "body": b"data: end\n\n"})

    async def peer(self, scope: Scope, send: Send) -> None:
        peer = peer_of(scope)
        await answer(
            send, None if peer is None else {"subject": peer.subject, "dns": peer.dns_names, "spiffe": peer.spiffe_id}
        )

    async def websocket(self, scope: Scope, receive: Receive, send: Send) -> None:
        """`/attentive` ends by itself, everything else listens until the other side is gone."""
        await receive()
        await send({"type": "websocket.accept"})
        await send({"type": "websocket.send", "text": "hello"})
        if scope["path"] == "/attentive":
            await draining()
            await send({"type": "websocket.send", "text": "bye"})
            await send({"type": "websocket.close", "code": 1001})
            return
        while True:
            message: Message = await receive()
            if message["type"] == "websocket.disconnect":
                note(f"websocket {message.get('code')}")
                return


async def answer(send: Send, content: Any) -> None:
    body = json.dumps(content).encode()
    head = [(b"content-type", b"application/json"), (b"content-length", b"%d" % len(body))]
    await send({"type": "http.response.start", "status": 200, "headers": head})
    await send({"type": "http.response.body", "body": body})


app = HealthEndpoints(Service(), Health())
