"""One line for each request: what was asked, what the answer was, how long it took, and how it ended.

    app = AccessLog(app)                                    # the logger holdfast.asgi.access_log, level INFO
    handler.setFormatter(JsonLines())                       # or any other: the line is JSON by itself

| field | |
|---|---|
| `method` | as sent, or `<other>` |
| `route` | the template (`/users/{id}`), or `<unmatched>`: never the path, which holds what users are called |
| `status` | null: there was no answer |
| `duration_s` | from the first layer to the last byte handed over (or the end of it); not what the application does after that |
| `request_bytes`, `response_bytes` | bytes of the bodies that were read and handed over |
| `request_id`, `trace_id` | null outside `RequestId` |
| `client` | the address, proxies seen through where a layer does that |
| `tenant` | a keyed hash, only where a key was given |
| `outcome` | `answered`, `client_left` (hung up before the end), `cut` (an error ended it), `cancelled` (the service stopped) |
| `effect` | `unknown` or `not_committed` where an error said so |
| `problem` | the code of the problem document that answered |
| `attempts`, `replayed` | where layers repeated or replayed |

Never in it: the query string, headers, bodies, names of people.
"""

from __future__ import annotations

import asyncio
import logging
from hashlib import blake2b
from typing import ClassVar

from ..clock import SYSTEM_CLOCK, Clock
from ..errors import ConfigurationError
from .context import RequestContext
from .exchange import Exchange, exchange_of
from .interface import App, Receive, Scope, Send
from .log_lines import LogFields, capped, one_line, quoted
from .stack import Place

__all__ = ["AccessLine", "AccessLog", "route_of"]

_METHODS = frozenset({"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS", "TRACE", "CONNECT"})
_ADDRESS_MAX = 64  # an IPv6 address with a zone has 45 characters and some
_ROUTE_MAX = 200


def route_of(scope: Scope, context: RequestContext) -> str:
    """The template of the route that took the request, or `<unmatched>`.

    Known once the application has routed: a layer set `context.route`, or the framework `scope["route"]` with a `path`, as
    Starlette and FastAPI do. There are as many values as the application has routes, plus one.
    """
    route = context.route
    if route is None:
        route = getattr(scope.get("route"), "path", None)
    return capped(route, _ROUTE_MAX) if isinstance(route, str) else "<unmatched>"


class AccessLog:
    """Writes the line, also for a request that was cancelled or whose client left; WebSockets are passed on unlogged.

    Args:
        app: the application around which this stands.
        tenant_key: with it the line has the tenant's keyed hash (BLAKE2b, 16 hexadecimal digits): the same tenant can be
            followed, and who it is told only by those who have the key. Default None: no tenant. 16 to 64 bytes.
        logger: where the lines go, default the logger `holdfast.asgi.access_log`. Below the level INFO nothing is built.
        clock: the one `RequestId` has.

    Raises:
        ConfigurationError: the key is too short or too long.
    """

    place: ClassVar[Place] = Place.ACCESS_LOG

    __slots__ = ("_clock", "_logger", "_tenant_key", "app")

    def __init__(
        self,
        app: App,
        *,
        tenant_key: bytes | None = None,
        logger: logging.Logger | None = None,
        clock: Clock = SYSTEM_CLOCK,
    ) -> None:
        if tenant_key is not None and not 16 <= len(tenant_key) <= 64:
            raise ConfigurationError("tenant_key must have 16 to 64 bytes")
        self.app = app
        self._tenant_key = tenant_key
        self._logger = logger or logging.getLogger(__name__)
        self._clock = clock

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Handle one connection."""
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        context, exchange, receive, send = exchange_of(scope, receive, send, self._clock)
        cancelled = False
        try:
            await self.app(scope, receive, send)
        except asyncio.CancelledError:
            cancelled = True
            raise
        finally:
            if self._logger.isEnabledFor(logging.INFO):
                self._write(scope, context, exchange, cancelled=cancelled)

    def _write(self, scope: Scope, context: RequestContext, exchange: Exchange, *, cancelled: bool) -> None:
        method = scope["method"]
        client = context.client_address
        if client is None and scope.get("client"):
            client = str(scope["client"][0])
        ended_at = exchange.ended_at if exchange.complete else self._clock.monotonic()
        line = AccessLine(
            event="request",
            method=method if method in _METHODS else "<other>",
            route=route_of(scope, context),
            status=exchange.status,
            duration_s=round(ended_at - context.started_at, 6),
            request_bytes=exchange.request_bytes,
            response_bytes=exchange.response_bytes,
            request_id=context.request_id or None,
            trace_id=context.trace_id,
            client=capped(client, _ADDRESS_MAX) if client is not None else None,
            outcome=_outcome(exchange, cancelled=cancelled),
        )
        if self._tenant_key is not None and context.tenant is not None:
            line["tenant"] = blake2b(context.tenant.encode(), digest_size=8, key=self._tenant_key).hexdigest()
        if context.outcome is not None:
            line["effect"] = context.outcome
        if context.problem is not None:
            line["problem"] = context.problem
        if context.attempts > 1:
            line["attempts"] = context.attempts
        if context.replayed:
            line["replayed"] = True
        # Not by info(): finding out who called it costs as much as all the rest, and it is always this line.
        logger = self._logger
        logger.handle(logger.makeRecord(logger.name, logging.INFO, __file__, 0, line, (), None))


class AccessLine(LogFields):
    """What is said of one request: the fields of the table above, the first eleven of them always and in that order."""

    __slots__ = ()

    def __str__(self) -> str:
        # As `one_line` would say it, in a third of the time: this is done for every request.
        (
            event, method, route, status, duration_s, request_bytes, response_bytes, request_id, trace_id, client, outcome,
            *others,
        ) = self.values()  # fmt: skip
        line = (
            f'{{"event":"{event}","method":"{method}","route":{quoted(route)},"status":{"null" if status is None else status}'
            f',"duration_s":{duration_s},"request_bytes":{request_bytes},"response_bytes":{response_bytes}'
            f',"request_id":{quoted(request_id)},"trace_id":{quoted(trace_id)},"client":{quoted(client)},"outcome":"{outcome}"'
        )
        if others:
            line += "," + one_line(dict(list(self.items())[-len(others) :]))[1:-1]
        return line + "}"


def _outcome(exchange: Exchange, *, cancelled: bool) -> str:
    if exchange.complete:
        return "answered"
    if exchange.disconnected:
        return "client_left"
    return "cancelled" if cancelled else "cut"
