"""`/livez`, `/readyz`, `/healthz`: what those ask who start processes and send them traffic.

    app = HealthEndpoints(app, Health([...]))

| path | 200 | 503 |
|---|---|---|
| `/livez` | the process can recover by itself; depends on nothing, and stays so while starting and draining | start another one |
| `/readyz` | `ready` or `degraded` | `not-ready`: starting, draining, or a critical check failed; with `Retry-After` |
| `/healthz` | as `/readyz`, under the name that older probes ask for | |

The body is JSON of one shape, whatever the state: names, states and ages, and nothing that an exception said. GET and HEAD, and
no cache may keep an answer. Place it right inside `Draining`, before anything that may refuse, authenticate or count.
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

from ..errors import ConfigurationError
from ..health import Health, HealthState
from ..shutdown import DRAIN, Drain
from .context import context_of
from .route_patterns import path_of
from .stack import Place

if TYPE_CHECKING:
    from .interface import App, Headers, Message, Receive, Scope, Send

__all__ = ["HealthEndpoints"]

_PLAIN: Headers = [(b"content-type", b"application/json"), (b"cache-control", b"no-store")]


class HealthEndpoints:
    """Answers the probes and passes everything else through. Belongs to one event loop, as its `Health` does.

    It also has `Health.start` called when the application has come up (ASGI's lifespan), if it was made with `started=False`.

    Args:
        app: the application inside.
        health: what is asked.
        drain: whose beginning makes it not ready; default the process's own.
        live, ready, healthz: the paths, each beginning with `/`; None: not served.
        retry_after: whole seconds that a 503 of `/readyz` asks for; default 5, 1 or more.

    Raises:
        ConfigurationError: a path or `retry_after` cannot work.
    """

    __slots__ = ("_drain", "_health", "_paths", "_unready", "app")
    place = Place.HEALTH

    def __init__(
        self,
        app: App,
        health: Health,
        *,
        drain: Drain = DRAIN,
        live: str | None = "/livez",
        ready: str | None = "/readyz",
        healthz: str | None = "/healthz",
        retry_after: int = 5,
    ) -> None:
        paths = [(path, path == live) for path in (live, ready, healthz) if path is not None]
        if len({path for path, _ in paths}) < len(paths) or not all(path.startswith("/") for path, _ in paths):
            raise ConfigurationError("the paths of health endpoints must differ and begin with /")
        if retry_after < 1:
            raise ConfigurationError(f"retry_after must be 1 second or more, not {retry_after}")
        self.app = app
        self._health = health
        self._drain = drain
        self._paths = dict(paths)
        self._unready: Headers = [*_PLAIN, (b"retry-after", b"%d" % retry_after)]

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer, or call the application. What passes through costs one look into a dictionary."""
        kind = scope["type"]
        if kind == "http":
            path = path_of(scope)
            is_live = self._paths.get(path)
            if is_live is not None:
                context_of(scope).route = path
                await self._answer(scope["method"], send, is_live=is_live)
                return
        elif kind == "lifespan" and not self._health.started:
            send = _Starting(self._health, send)
        await self.app(scope, receive, send)

    async def _answer(self, method: str, send: Send, *, is_live: bool) -> None:
        if method not in {"GET", "HEAD"}:
            await _send(send, 405, [*_PLAIN, (b"allow", b"GET, HEAD")], b"{}", method)
        elif is_live:
            alive = self._health.is_alive
            await _send(send, 200 if alive else 503, _PLAIN, b'{"alive":true}' if alive else b'{"alive":false}', method)
        else:
            report = await self._health.report(draining=self._drain.is_draining)
            body = json.dumps(report.document(), separators=(",", ":")).encode()
            unready = report.state is HealthState.NOT_READY
            await _send(send, 503 if unready else 200, self._unready if unready else _PLAIN, body, method)


class _Starting:
    """Tells `Health` that the application has come up."""

    __slots__ = ("_health", "_send")

    def __init__(self, health: Health, send: Send) -> None:
        self._health = health
        self._send = send

    async def __call__(self, message: Message) -> None:
        if message["type"] == "lifespan.startup.complete":
            self._health.start()
        await self._send(message)


async def _send(send: Send, status: int, headers: Headers, body: bytes, method: str) -> None:
    length = (b"content-length", b"%d" % len(body))
    await send({"type": "http.response.start", "status": status, "headers": [*headers, length]})
    await send({"type": "http.response.body", "body": b"" if method == "HEAD" else body})
