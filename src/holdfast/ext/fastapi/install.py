"""`install`: the layers of the edge around an application, in their order.

edge = install(app, db, EdgeSettings.load(), authenticator=tokens, idempotency=SqlIdempotency(db))

Always on: request id, access log, recovery, draining, health, the client's address. All else is on if it is configured, and one
line in the log says what is on and what is off. Middleware that the application gets after this call stands outside (where CORS
belongs), what it had before stands inside.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Protocol

from fastapi import FastAPI
from fastapi.routing import iter_route_contexts

from ...asgi.access_log import AccessLog
from ...asgi.admission import ConcurrencyLimit
from ...asgi.authentication import Authentication, Authenticator
from ...asgi.body import BodyLimit
from ...asgi.client_address import ClientAddress
from ...asgi.deadline import Deadline
from ...asgi.draining import Draining
from ...asgi.health import HealthEndpoints
from ...asgi.idempotency import Idempotency, IdempotencyStore
from ...asgi.ip_allowlist import IpAllowlist
from ...asgi.quotas import Quota, QuotaStore
from ...asgi.rate_limit import RateLimit
from ...asgi.recovery import Recovery
from ...asgi.request_id import RequestId
from ...asgi.retry import RequestRetry
from ...asgi.stack import Middleware, Stack
from ...errors import ConfigurationError
from ...health import Health, HealthCheck
from ...shutdown import DRAIN, Drain
from .errors import install_errors
from .openapi import install_openapi
from .routes import RouteKeys, key_mode
from .settings import EdgeSettings

__all__ = ["Closable", "Edge", "install"]

_log = logging.getLogger("holdfast")


class Closable(Protocol):
    """What `install` asks of a database; `Database` and `AsyncDatabase` are such."""

    def health_checks(self) -> tuple[HealthCheck, ...]:
        """What to look at for its health."""

    def close(self) -> object:
        """End it; may be a coroutine function."""


@dataclass(frozen=True, slots=True)
class Edge:
    """What was switched on.

    Attributes:
        health: the registry, for checks of your own.
        on, off: the names of the layers, the outermost first.
    """

    health: Health
    on: tuple[str, ...]
    off: tuple[str, ...]


def install(
    app: FastAPI,
    db: Closable | None = None,
    settings: EdgeSettings | None = None,
    *,
    authenticator: Authenticator | None = None,
    public: Iterable[str] = (),
    idempotency: IdempotencyStore | None = None,
    anonymous_keys: str | None = None,
    quota_store: QuotaStore | None = None,
    checks: Iterable[HealthCheck] = (),
    drain: Drain = DRAIN,
) -> Edge:
    """Switch on the edge around `app`. Once, after its routes are there and before it serves.

    Args:
        app: the application.
        db: gives its health checks, and is closed when the process ends; default None.
        settings: default `EdgeSettings.load()`: the environment.
        authenticator: who asks; default None: nobody is asked.
        public: route patterns on which a proof may be missing; default those of OpenAPI and its pages.
        idempotency: where keys and answers are kept; default None: keys do not count.
        anonymous_keys: see `Idempotency.anonymous`; default None.
        quota_store: where rates are counted; default this process alone.
        checks: further health checks.
        drain: what ends the process; default its own.

    Raises:
        ConfigurationError: a setting cannot work, it was called before, the application runs already, or a route requires a key
            and there is no store for keys.
    """
    if getattr(app.state, "holdfast", None) is not None:
        raise ConfigurationError("the edge is around this application already; call install once")
    if app.middleware_stack is not None:
        raise ConfigurationError("the application serves already; call install where it is made")
    settings = settings if settings is not None else EdgeSettings.load()
    if idempotency is None and any(key_mode(route) == "required" for route in iter_route_contexts(app.routes)):
        raise ConfigurationError(
            'a route has edge(key="required"); give install a store: idempotency=SqlIdempotency(db)'
        )
    health = Health([*(db.health_checks() if db is not None else ()), *checks])
    shown = [path for path in (app.openapi_url, app.docs_url, app.redoc_url) if path]
    layers: list[tuple[bool, Middleware]] = [
        (True, RequestId),
        (True, AccessLog),
        (True, Recovery),
        (True, partial(Draining, drain=drain)),
        (True, partial(HealthEndpoints, health=health, drain=drain)),
        (True, partial(ClientAddress, trusted=settings.trusted_proxies)),
        (bool(settings.allowlist), partial(IpAllowlist, rules=settings.allowlist)),
        *_authentication(authenticator, [*shown, *public]),
        *_limits(settings, quota_store),
        *_keys(app, idempotency, anonymous_keys),
        (settings.attempts > 1, partial(RequestRetry, attempts=settings.attempts)),
    ]
    result = Edge(health, _names(layers, is_on=True), _names(layers, is_on=False))
    app.add_middleware(partial(Stack), *(layer for is_on, layer in layers if is_on))
    install_errors(app)
    limited = settings.rate_per_s is not None
    install_openapi(app, authenticated=authenticator is not None, keyed=idempotency is not None, limited=limited)
    if db is not None:
        drain.on_close("database", db.close)
    app.state.holdfast = result
    _log.info("the edge: on %s; off %s", ", ".join(result.on), ", ".join(result.off) or "nothing")
    return result


def _authentication(authenticator: Authenticator | None, public: Sequence[str]) -> list[tuple[bool, Middleware]]:
    known = () if authenticator is None else (authenticator,)
    return [(bool(known), partial(Authentication, authenticators=known, optional=public))]


def _limits(settings: EdgeSettings, store: QuotaStore | None) -> list[tuple[bool, Middleware]]:
    rate = settings.rate_per_s
    quotas = () if rate is None else (Quota("client", rate, burst=settings.rate_burst),)
    deadline_s, body_max, concurrency = settings.deadline_s, settings.body_max, settings.concurrency
    return [
        (deadline_s is not None, partial(Deadline, maximum=deadline_s or 1.0)),
        (body_max is not None, partial(BodyLimit, limit=body_max or 0)),
        (rate is not None, partial(RateLimit, quotas=quotas, store=store)),
        (concurrency is not None, partial(ConcurrencyLimit, limit=concurrency or 1, queue=settings.queue)),
    ]


def _keys(app: FastAPI, store: IdempotencyStore | None, anonymous: str | None) -> list[tuple[bool, Middleware]]:
    if store is None:
        return [(False, Idempotency)]  # type: ignore[list-item]  # named as off, never called
    return [(True, partial(Idempotency, store=store, rules_for=RouteKeys(app.routes), anonymous=anonymous))]


def _names(layers: Iterable[tuple[bool, Middleware]], *, is_on: bool) -> tuple[str, ...]:
    found = []
    for enabled, layer in layers:
        if enabled is is_on:
            kind = layer.func if isinstance(layer, partial) else layer
            found.append(getattr(kind, "__name__", type(kind).__name__))
    return tuple(found)
