"""A small service whose requests have an effect that can be counted, behind the idempotency layer.

    effects = await Effects.open(url)
    answer = await call(effects.app, "POST", "/effects", caller("ada", key="k"), b"body")
    assert await effects.count() == 1

`POST /effects` saves a row and answers 201 with its number. What it does besides is said by the query: `status` (answer this
instead), `size` (bytes of the answer), `cookie`. A test may put a coroutine function in `after_effect`.

As a process it ends itself by SIGKILL where the environment variable `EFFECT_CRASH` says so, once: `before-commit` (the effect
is written), `after-commit` (the answer is about to leave). The file in `EFFECT_CRASHED` remembers that it did.
"""

from __future__ import annotations

import os
import signal
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any, Self
from urllib.parse import parse_qs

from sqlalchemy import String, func, select
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column

from holdfast.asgi.context import context_of
from holdfast.asgi.headers import first
from holdfast.asgi.idempotency import Idempotency
from holdfast.asgi.interface import App, Message, Receive, Scope, Send
from holdfast.asgi.problems import Problem, send_problem
from holdfast.ext.sqlalchemy import OPERATIONS, AsyncDatabase, DatabaseSettings, UnitAsyncSession
from holdfast.ext.sqlalchemy.idempotency import SqlIdempotency

__all__ = ["Effect", "Effects", "Make", "Proven", "caller", "from_environment"]


class Base(DeclarativeBase):
    """The tables of this service."""


class Effect(Base):
    """An effect; no unique key would hide a double."""

    __tablename__ = "edge_effects"
    id: Mapped[int] = mapped_column(primary_key=True)
    tenant: Mapped[str] = mapped_column(String(100))
    what: Mapped[str] = mapped_column(String(2000))


def caller(user: str = "ada", *, tenant: str = "acme", key: str | None = None, **more: str) -> dict[str, str]:
    """The headers of a request by `user`, who needs no proof here."""
    headers = {"x-user": user, "x-tenant": tenant, **{name.replace("_", "-"): value for name, value in more.items()}}
    return headers if key is None else {**headers, "Idempotency-Key": key}


class Proven:
    """Stands where authentication does: who asks stands in a header. Whoever is in `revoked` gets 403."""

    def __init__(self, app: App) -> None:
        self.app = app
        self.revoked: set[str] = set()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http":
            context = context_of(scope)
            user, tenant = (first(scope["headers"], name) for name in (b"x-user", b"x-tenant"))
            context.principal = user.decode() if user else None
            context.tenant = tenant.decode() if tenant else None
            if context.principal in self.revoked:
                await send_problem(send, Problem(403, "forbidden"), context)
                return
        await self.app(scope, receive, send)


class Effects:
    """The service on one database.

    Attributes:
        app: the whole of it: authentication, idempotency, the handler.
        calls: how often the handler was called.
        after_effect: awaited when the effect is written, before the answer.
    """

    def __init__(self, db: AsyncDatabase, **settings: Any) -> None:
        self.db = db
        self.calls = 0
        self.after_effect: Callable[[Scope], Awaitable[None]] | None = None
        self.idempotency = Idempotency(self._handle, SqlIdempotency(db), **settings)
        self.app = Proven(self.idempotency)

    @classmethod
    async def open(cls, url: str, database: DatabaseSettings | None = None, **settings: Any) -> Self:
        """The service on the database at `url`, with empty tables."""
        db = AsyncDatabase(url, database)
        await db.migrate(Base.metadata)

        async def empty(tx: UnitAsyncSession) -> None:
            await tx.execute(Effect.__table__.delete())  # type: ignore[attr-defined]
            await tx.execute(OPERATIONS.delete())

        await db.transaction(protect=False)(empty)()
        return cls(db, **settings)

    async def close(self) -> None:
        """Close the database."""
        await self.db.close()

    async def count(self, tenant: str | None = None) -> int:
        """How many effects there are."""

        async def query(tx: UnitAsyncSession) -> int:
            effects = select(func.count()).select_from(Effect)
            found: int = (
                await tx.execute(effects if tenant is None else effects.where(Effect.tenant == tenant))
            ).scalar_one()
            return found

        return await self.db.read(query)

    async def rows(self) -> list[dict[str, Any]]:
        """What is kept under keys."""
        async with self.db.engine.connect() as connection:
            found = await connection.execute(select(OPERATIONS).where(OPERATIONS.c.scope != "holdfast"))
            return [dict(row._mapping) for row in found]

    async def _handle(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            await self._live(receive, send)
            return
        self.calls += 1
        body = await _whole(receive)
        asked = {name: values[0] for name, values in parse_qs(scope["query_string"].decode()).items()}
        tenant = context_of(scope).tenant or ""
        effect = await self.db.save(Effect(tenant=tenant, what=body.decode("latin-1")[:2000]))
        if self.after_effect is not None:
            await self.after_effect(scope)
        answer = f"effect {effect.id} of {tenant}".ljust(int(asked.get("size", "0")), ".").encode()
        headers = [(b"content-type", b"text/plain"), (b"location", b"/effects/%d" % effect.id)]
        if "cookie" in asked:
            headers += [(b"Set-Cookie", b"session=" + asked["cookie"].encode()), (b"authorization", b"Bearer leaked")]
        status = int(asked.get("status", "201"))
        await send({"type": "http.response.start", "status": status, "headers": headers})
        await send({"type": "http.response.body", "body": answer})

    async def _live(self, receive: Receive, send: Send) -> None:
        await receive()
        await self.db.migrate(Base.metadata)
        await send({"type": "lifespan.startup.complete"})
        await receive()
        await self.db.close()
        await send({"type": "lifespan.shutdown.complete"})


Make = Callable[..., Awaitable[Effects]]
"""Opens the service; the fixture `make` is one."""


async def _whole(receive: Receive) -> bytes:
    body, more = b"", True
    while more:
        message = await receive()
        body += message.get("body", b"")
        more = message.get("more_body", False)
    return body


def from_environment() -> App:
    """The service as a process: `uvicorn --factory tests.asgi.effect_app:from_environment`."""
    effects = Effects(AsyncDatabase(os.environ["EFFECT_DATABASE"]))
    point, crashed = os.environ.get("EFFECT_CRASH"), Path(os.environ["EFFECT_CRASHED"])

    def crash_at(here: str) -> None:
        if point == here and not crashed.exists():
            crashed.touch()
            os.kill(os.getpid(), signal.SIGKILL)

    async def after_effect(_scope: Scope) -> None:
        crash_at("before-commit")

    async def outermost(scope: Scope, receive: Receive, send: Send) -> None:
        async def crashing(message: Message) -> None:
            if scope["type"] == "http":
                crash_at("after-commit")
            await send(message)

        await effects.app(scope, receive, crashing)

    effects.after_effect = after_effect
    return outermost
