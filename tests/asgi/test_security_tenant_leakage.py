"""Risk: one caller's tenant seen by another. Interleaved, cancelled, failed: each request knows itself alone."""

from __future__ import annotations

import asyncio
import random
from functools import partial

from holdfast.asgi.authentication import Authentication, Principal, bearer_token, current_principal, principal_of
from holdfast.asgi.context import RequestContext, context_of, current_request
from holdfast.asgi.interface import Receive, Scope, Send
from holdfast.asgi.recovery import Recovery
from holdfast.asgi.request_id import RequestId
from holdfast.asgi.stack import Stack
from tests.asgi.asgi_calls import Connection, http_scope, until


class Names:
    """An authenticator that believes everybody, after a turn of the loop: `name.tenant`."""

    challenge = "Bearer"

    async def authenticate(self, scope: Scope, /) -> Principal | None:
        """Split the token."""
        token = bearer_token(scope["headers"], length_max=100)
        await asyncio.sleep(0)  # noqa: TID251 - gives way, waits for no time
        if token is None:
            return None
        name, _, tenant = token.partition(".")
        return Principal(name, "issuer", tenant, frozenset({f"only-{name}"}))


class Application:
    """Looks who asks, again and again, and gives way in between; every second request fails."""

    def __init__(self) -> None:
        self.looks = 0
        self.wrong: list[str] = []

    def _look(self, scope: Scope, name: str, tenant: str) -> None:
        context = context_of(scope)
        principal = principal_of(context)
        self.looks += 1
        if (
            context is not current_request()
            or principal is None
            or principal is not current_principal()
            or (principal.subject, context.tenant, context.permissions) != (name, tenant, frozenset({f"only-{name}"}))
        ):
            self.wrong.append(f"{name} of {tenant} saw {context.principal} of {context.tenant}")

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request."""
        name, tenant = scope["path"][1:].split(".")
        for turn in range(5):
            self._look(scope, name, tenant)
            await asyncio.sleep(0)  # noqa: TID251 - gives way, waits for no time
            await asyncio.create_task(self._inside(scope, name, tenant))
            if turn == 3 and int(name) % 2:
                raise ValueError(name)
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": tenant.encode()})

    async def _inside(self, scope: Scope, name: str, tenant: str) -> None:
        self._look(scope, name, tenant)


async def test_interleaved_and_cancelled_requests_know_only_themselves(rng: random.Random) -> None:
    """Two tenants, 300 requests, a third of them cancelled at any step, over one `state` that the server hands to all."""
    app = Application()
    layers = Stack(app, RequestId, Recovery, partial(Authentication, authenticators=[Names()]))
    shared: dict[str, object] = {"pool": object()}
    running: list[tuple[str, Connection, asyncio.Task[None]]] = []
    for number in range(300):
        tenant = rng.choice(["north", "south"])
        scope = http_scope("GET", f"/{number}.{tenant}", {"Authorization": f"Bearer {number}.{tenant}"}, state=shared)
        connection = Connection(scope)
        running.append((tenant, connection, connection.start(layers)))
        if rng.random() < 0.5:
            await asyncio.sleep(0)  # noqa: TID251 - gives way, waits for no time
        if rng.random() < 0.33:
            rng.choice(running)[2].cancel()
    for _, connection, _ in running:
        await connection.answer()
    assert app.looks > 1000
    assert app.wrong == []
    assert [name for name in shared if name != "pool"] == [], "a context must not stay in what requests share"
    answered = 0
    for tenant, connection, _ in running:
        other = {"north": b"south", "south": b"north"}[tenant]
        assert other not in connection.so_far.body
        answered += connection.so_far.body == tenant.encode()
    assert answered > 50


async def test_a_cancelled_request_leaves_nobody_behind() -> None:
    """The next request in the same task, without a proof, is nobody: not the one before."""
    entered: list[str | None] = []
    seen: list[RequestContext] = []

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        principal = current_principal()
        entered.append(principal.tenant if principal is not None else None)
        seen.append(context_of(scope))
        if scope["path"] == "/slow":
            await asyncio.Event().wait()

    layers = Stack(app, RequestId, partial(Authentication, authenticators=[Names()], optional=["/public"]))

    async def keep_alive() -> None:
        first = http_scope("GET", "/slow", {"Authorization": "Bearer ada.north"})
        try:
            await layers(first, Connection(first).receive, Connection(first).send)
        except asyncio.CancelledError:
            asyncio.current_task().uncancel()  # type: ignore[union-attr]
        assert current_request() is None
        assert current_principal() is None
        second = http_scope("GET", "/public")
        await layers(second, Connection(second).receive, Connection(second).send)

    task = asyncio.create_task(keep_alive())
    await until(lambda: entered)
    task.cancel()
    await task
    assert entered == ["north", None]
    assert seen[0] is not seen[1]
    assert (seen[1].principal, seen[1].tenant, seen[1].permissions) == (None, None, frozenset())


async def test_planted_leak_is_found() -> None:
    """A layer that keeps the principal on itself, as a singleton would, turns the first test's looks wrong."""
    app = Application()
    scopes = [http_scope("GET", f"/{name}", {"Authorization": f"Bearer {name}"}) for name in ("2.north", "4.south")]

    class Leaking:
        challenge = "Bearer"
        last: Principal | None = None

        async def authenticate(self, scope: Scope, /) -> Principal | None:
            self.last = await Names().authenticate(scope)
            await asyncio.sleep(0)  # noqa: TID251 - gives way, waits for no time
            return self.last

    layers = Stack(app, RequestId, partial(Authentication, authenticators=[Leaking()]))
    connections = [Connection(scope) for scope in scopes]
    for connection in connections:
        connection.start(layers)
    for connection in connections:
        await connection.answer()
    assert app.wrong
