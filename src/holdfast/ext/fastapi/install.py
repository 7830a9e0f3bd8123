"""`install`: the layers of the edge around an application, in their order.

edge = install(app, db, EdgeSettings.load(), authenticator=tokens, idempotency=SqlIdempotency(db))

Always on: request id, access log, recovery, draining, health, the client's address. All else is on if it is configured, and one
line in the log says what is on and what is off. Middleware that the application gets after this call stands outside (where CORS
belongs), what it had before stands inside. What a route says by `edge(...)` beats the settings, and is refused if the layer
that would hold to it is off: a protection that is written down and not there is worse than none.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from typing import NamedTuple, Protocol, runtime_checkable

from fastapi import FastAPI
from pydantic import SecretStr
from starlette.middleware.base import BaseHTTPMiddleware  # noqa: TID251 - to refuse it

from ...asgi.access_log import AccessLog
from ...asgi.admission import ConcurrencyLimit
from ...asgi.authentication import Authentication, Authenticator
from ...asgi.body import BodyBuffer, BodyLimit
from ...asgi.client_address import ClientAddress
from ...asgi.deadline import Deadline
from ...asgi.draining import Draining
from ...asgi.failed_proofs import FailedProofs
from ...asgi.gate import Priority
from ...asgi.health import HealthEndpoints
from ...asgi.idempotency import KEYED_METHODS, Idempotency, IdempotencyStore
from ...asgi.interface import Receive, Scope, Send
from ...asgi.ip_allowlist import IpAllowlist
from ...asgi.problems import Problem
from ...asgi.quotas import Quota, QuotaStore
from ...asgi.rate_limit import RateLimit
from ...asgi.recovery import Recovery
from ...asgi.request_id import RequestId
from ...asgi.retry import RequestRetry
from ...asgi.route_patterns import RoutePatterns
from ...asgi.stack import Middleware, Stack
from ...asgi.subjects import by_tenant
from ...bounds import instance_of
from ...errors import ConfigurationError
from ...health import Health, HealthCheck
from ...shutdown import DRAIN, Drain, Part
from .errors import ProblemFor, UnhandledErrors, install_errors
from .openapi import Told, install_openapi
from .routes import LaterRoutes, Refusal, Route, Routes, not_looked_at
from .settings import EdgeSettings

__all__ = ["Closable", "Edge", "install"]

_log = logging.getLogger("holdfast")

_BODIES_MAX = 64 * 1_048_576


@runtime_checkable
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
    problems: Mapping[type[Exception], ProblemFor] | None = None,
    quota_store: QuotaStore | None = None,
    checks: Iterable[HealthCheck] = (),
    drain: Drain = DRAIN,
) -> Edge:
    """Switch on the edge around `app`. Once, after its routes are there and before it serves.

    Args:
        app: the application.
        db: gives its health checks, and is closed when the application ends, or the process; default None.
        settings: default `EdgeSettings.load()`: the environment.
        authenticator: who asks; default None: nobody is asked.
        public: route patterns on which a proof may be missing; default those of OpenAPI and its pages.
        idempotency: where keys and answers are kept; default None: keys do not count.
        anonymous_keys: see `Idempotency.anonymous`; default None.
        problems: the application's own errors, each with the `Problem` that answers it, or a function from the error to one;
            `Exception` for what nothing else answers. Holdfast's need none. Default none.
        quota_store: where rates are counted; default this process alone.
        checks: further health checks.
        drain: what ends the process (default its own), of which the application gets a part; or the `Part` that ends it.

    Raises:
        ConfigurationError: a setting cannot work, something is of another kind, it was called before, the application runs
            already, a route asks by `edge(...)` for what is off, nothing tells whose an idempotency key is, or the application
            has middleware that keeps `SqlIdempotency` from its handlers.
    """
    given = {"db": db, "authenticator": authenticator, "idempotency": idempotency, "quota_store": quota_store}
    _refuse_other_kinds(app, settings, given)
    problems, checks = problems or {}, tuple(checks)
    _refuse_other_members(problems, checks)
    _refuse_late(app)
    _refuse_other_tasks(app, idempotency)
    settings = settings if settings is not None else EdgeSettings.load()
    routes, has = Routes(app), _Has(keys=idempotency is not None, callers=authenticator is not None)
    if has.keys and not has.callers and anonymous_keys is None:
        raise ConfigurationError(_NOBODYS_KEYS)
    _refuse_unheld(routes, settings, has)
    part = Part.of(drain)
    health = Health([*(db.health_checks() if db is not None else ()), *checks])
    optional = [*_pages(app), *public]
    layers: list[tuple[bool, Middleware]] = [
        (True, partial(RequestId, incoming=settings.request_id_header or None)),
        (True, partial(AccessLog, tenant_key=_bytes(settings.tenant_key))),
        (True, Recovery),
        (True, partial(Draining, drain=part)),
        (True, partial(UnhandledErrors, handlers=app.exception_handlers)),
        (True, partial(HealthEndpoints, health=health, drain=part)),
        (True, partial(ClientAddress, trusted=settings.trusted_proxies)),
        _allowlist(routes, settings),
        _authentication(authenticator, optional, settings),
        *_limits(routes, settings, quota_store),
        _keys(routes, settings, idempotency, anonymous_keys),
        (settings.attempts > 1, partial(RequestRetry, attempts=settings.attempts, may_repeat=routes.may_repeat)),
    ]
    result = Edge(health, _names(layers, is_on=True), _names(layers, is_on=False))
    used = [layer for is_on, layer in layers if is_on]
    Stack(_nothing, *used)  # what cannot work fails here and not with the first request
    routes.refuse_later(_later(routes, settings, has))
    app.add_middleware(partial(Stack), *used, partial(LaterRoutes, routes=routes))
    install_errors(app, routes, problems)
    schemes = () if authenticator is None else (authenticator.challenge.split(" ", 1)[0].lower(),)
    install_openapi(app, routes, Told(frozenset(result.on), schemes, RoutePatterns(optional, name="public")))
    if db is not None:
        part.on_close("database", db.close)
    part.whole.restart()  # what ran before may have been the last
    app.state.holdfast = result
    _log.info("the edge: on %s; off %s", ", ".join(result.on), ", ".join(result.off) or "nothing")
    return result


def _pages(app: FastAPI) -> list[str]:
    """Those of OpenAPI, and its document."""
    return [path for path in (app.openapi_url, app.docs_url, app.redoc_url, app.swagger_ui_oauth2_redirect_url) if path]


async def _nothing(scope: Scope, receive: Receive, send: Send) -> None:
    """An application to try the layers on."""


_KINDS: dict[str, type] = {
    "db": Closable,
    "authenticator": Authenticator,
    "idempotency": IdempotencyStore,
    "quota_store": QuotaStore,
}


def _refuse_other_kinds(app: object, settings: object, given: Mapping[str, object]) -> None:
    instance_of(app, FastAPI, "install: app")
    instance_of(settings, EdgeSettings, "install: settings", optional=True)
    for name, value in given.items():
        instance_of(value, _KINDS[name], f"install: {name}", optional=True)
        if isinstance(value, type):  # it has all that its instances have
            raise ConfigurationError(f"install: {name} must be made first: {value.__name__}(...)")


def _refuse_other_members(problems: Mapping[type[Exception], object], checks: Iterable[object]) -> None:
    for kind, value in problems.items():
        if isinstance(value, type) or not (isinstance(value, Problem) or callable(value)):
            name, shown = getattr(kind, "__name__", type(kind).__name__), type(value).__name__
            raise ConfigurationError(
                f"install: problems[{name}] must be a Problem, or a function from the error to one, not a {shown}: "
                f'{{{name}: Problem(404, "not-found")}}'
            )
    for check in checks:
        if not isinstance(check, HealthCheck):
            raise ConfigurationError(
                f'install: checks must hold HealthCheck, not {type(check).__name__}: HealthCheck("mail", ping)'
            )


def _refuse_late(app: FastAPI) -> None:
    if getattr(app.state, "holdfast", None) is not None:
        raise ConfigurationError("the edge is around this application already; call install once")
    if app.middleware_stack is not None:
        raise ConfigurationError("the application serves already; call install where it is made")


_NOBODYS_KEYS = (
    "idempotency needs to know whose a key is, so each request with one would be refused: give install an authenticator, or, if "
    "all callers may share their keys, anonymous_keys='public'"
)


def _refuse_other_tasks(app: FastAPI, store: object) -> None:
    if not getattr(store, "belongs_to_task", False):
        return
    for one in app.user_middleware:
        if isinstance(one.cls, type) and issubclass(one.cls, BaseHTTPMiddleware):
            raise ConfigurationError(
                f'{one.cls.__name__} (a BaseHTTPMiddleware, as @app.middleware("http") makes one) runs what is inside of it in a '
                "task of its own, where the transaction of a keyed request is not: every save there would fail. Add it after "
                "install(): then it stands outside"
            )


class _Has(NamedTuple):
    """What `install` was given: a store for `keys`, and an authenticator, which tells the `callers`."""

    keys: bool
    callers: bool


def _refuse_unheld(routes: Routes, settings: EdgeSettings, has: _Has) -> None:
    unheld = settings.refusal(has_keys=has.keys, has_callers=has.callers)
    asked = (*(_refusal(route, settings, has) for route in routes), *map(not_looked_at, routes.beyond()))
    for refusal in (unheld, *asked):
        if refusal is not None:
            raise ConfigurationError(refusal)


def _refusal(route: Route, settings: EdgeSettings, has: _Has) -> str | None:
    """Why what the route asks for cannot be held to, and the cure; None if it can."""
    asked, cure = route.options, ""
    if asked.key == "required" and not has.keys:
        cure = 'key="required"); give install a store: idempotency=SqlIdempotency(db)'
    elif asked.key == "required" and not route.methods <= KEYED_METHODS:
        others = ", ".join(sorted(route.methods - KEYED_METHODS))
        cure = (
            f'key="required"), and a key counts for {", ".join(sorted(KEYED_METHODS))}, not for {others}; take it out'
        )
    elif asked.deadline_s is not None and settings.deadline_s is None:
        cure = "deadline=...); set deadline_s for all other routes"
    elif asked.priority is not Priority.NORMAL and (settings.concurrency is None or settings.concurrency_mode == "off"):
        cure = "priority=...); set concurrency: without a limit nobody is refused"
    elif asked.retry and settings.attempts == 1:
        cure = "retry=True); set attempts to 2 or more"
    elif isinstance(asked.allowlist, str) and asked.allowlist not in settings.networks:
        cure = (
            f"allowlist={asked.allowlist!r}); give the settings these networks: networks={{{asked.allowlist!r}: [...]}}"
        )
    elif asked.permission is not None and not has.callers:
        cure = f"permission={asked.permission!r}); give install an authenticator: without one nobody is known"
    return f"{route.path} has edge({cure}" if cure else None


def _later(routes: Routes, settings: EdgeSettings, has: _Has) -> Refusal:
    """The same for routes that come after `install`: rules and quotas were read, and what they lack cannot be held to."""
    rules = {(route.pattern, route.options.allowlist) for route in routes}
    quotas = {id(route.options.quota) for route in routes if route.options.quota is not None}
    told_apart = _told_apart(routes)

    def refusal(route: Route) -> str | None:
        asked, what = route.options, ""
        if asked.allowlist is not None and (route.pattern, asked.allowlist) not in rules:
            what = "allowlist"
        elif asked.quota is not None and id(asked.quota) not in quotas:
            what = "quota"
        elif asked.priority is not Priority.NORMAL and not told_apart:
            what = "priority"
        if what:
            return (
                f"{route.path} has edge({what}=...) and was added after install; call install when the routes are there"
            )
        return _refusal(route, settings, has)

    return refusal


def _allowlist(routes: Routes, settings: EdgeSettings) -> tuple[bool, Middleware]:
    rules = [*settings.allowlist.items()]
    for route in routes:
        allowed = route.options.allowlist
        if allowed is not None:
            rules.append((route.pattern, settings.networks[allowed] if isinstance(allowed, str) else allowed))
    return bool(rules), partial(IpAllowlist, rules=tuple(rules))


def _authentication(
    authenticator: Authenticator | None, public: Iterable[str], settings: EdgeSettings
) -> tuple[bool, Middleware]:
    known = () if authenticator is None else (authenticator,)
    failures = None
    if settings.failed_proofs_per_s is not None:
        quota = Quota("failed-proofs", settings.failed_proofs_per_s, burst=settings.failed_proofs_burst)
        failures = FailedProofs(quota)
    return bool(known), partial(Authentication, authenticators=known, optional=tuple(public), failures=failures)


def _limits(routes: Routes, settings: EdgeSettings, store: QuotaStore | None) -> Iterator[tuple[bool, Middleware]]:
    maximum_s, body_max, concurrency = settings.deadline_s, settings.body_max, settings.concurrency
    yield maximum_s is not None, partial(Deadline, maximum=maximum_s or 1.0, maximum_for=routes.maximum_s)
    yield body_max is not None, partial(BodyLimit, limit=body_max or 0, timeout=settings.time_for_body_s)
    # The narrow ones first: what one client sends too much of costs its tenant nothing.
    quotas = routes.quotas()
    if settings.rate_per_s is not None:
        quotas.append(Quota("client", settings.rate_per_s, burst=settings.rate_burst))
    if settings.tenant_rate_per_s is not None:
        quotas.append(Quota("tenant", settings.tenant_rate_per_s, burst=settings.tenant_rate_burst, subject=by_tenant))
    yield bool(quotas), partial(RateLimit, quotas=quotas, store=store)
    yield (
        concurrency is not None and settings.concurrency_mode != "off",
        partial(
            ConcurrencyLimit,
            limit=concurrency or 1,
            least=settings.concurrency_least,
            mode=settings.concurrency_mode,
            queue=settings.queue,
            priority=routes.priority if _told_apart(routes) else None,
        ),
    )


def _told_apart(routes: Routes) -> bool:
    return any(route.options.priority is not Priority.NORMAL for route in routes)


def _keys(
    routes: Routes, settings: EdgeSettings, store: IdempotencyStore | None, anonymous: str | None
) -> tuple[bool, Middleware]:
    if store is None:
        return False, Idempotency  # type: ignore[return-value]  # named as off, never called
    body_max = 1_048_576 if settings.body_max is None else settings.body_max
    body = BodyBuffer(limit=body_max, timeout=settings.time_for_body_s, total=max(body_max, _BODIES_MAX))
    return True, partial(
        Idempotency,
        store=store,
        rules_for=routes.key_rules,
        may_replay=routes.may_replay,
        anonymous=anonymous,
        secret=_bytes(settings.key_secret),
        body=body,
    )


def _bytes(secret: SecretStr | None) -> bytes | None:
    return None if secret is None else secret.get_secret_value().encode()


def _names(layers: Iterable[tuple[bool, Middleware]], *, is_on: bool) -> tuple[str, ...]:
    found = []
    for enabled, layer in layers:
        if enabled is is_on:
            kind = layer.func if isinstance(layer, partial) else layer
            if hasattr(kind, "place"):  # a layer of the edge, and not one of FastAPI's doing
                found.append(getattr(kind, "__name__", type(kind).__name__))
    return tuple(found)
