"""The route that will serve a request, and what it says about itself; known before the application is called.

The layers ask for each request. It is looked for once, in a table of the application's routes, in their order; the table is made
anew when a path is not in it and routes have been added since. A route that was added later and asks for what the layers, which
are there by then, cannot hold to is refused: when the application starts, or with its first request.
"""

from __future__ import annotations

import re
from collections.abc import Awaitable, Callable, Iterable, Iterator
from dataclasses import replace
from typing import Any, NamedTuple

from fastapi import FastAPI
from fastapi.routing import iter_route_contexts
from starlette.convertors import PathConvertor
from starlette.routing import Mount

from ...asgi.answers import StoredAnswer
from ...asgi.authentication import Requirement
from ...asgi.context import RequestContext, context_of
from ...asgi.gate import Priority
from ...asgi.interface import App, Message, Receive, Scope, Send
from ...asgi.keyed_request import KeyRules
from ...asgi.quotas import Quota
from ...asgi.route_patterns import path_of
from ...asgi.subjects import SubjectOf
from ...errors import ConfigurationError
from .options import PLAIN, EdgeOptions, options_of

__all__ = ["LaterRoutes", "Refusal", "Route", "Routes", "not_looked_at"]


class Route(NamedTuple):
    """One route of the application.

    Attributes:
        path: as it was written, with the prefixes of the routers that include it.
        path_format: the same without convertors, as OpenAPI has it.
        pattern: the same for `RoutePatterns`.
        methods: those that it serves.
        regex: matches its paths.
        options: what it asks of the edge.
        required: what its dependencies ask for, those of its routers and of the application too; see `require`.
        refused: why nothing is served here, or None.
    """

    path: str
    path_format: str
    pattern: str
    methods: frozenset[str]
    regex: re.Pattern[str]
    options: EdgeOptions
    required: tuple[Requirement, ...] = ()
    refused: str | None = None


Refusal = Callable[[Route], str | None]
"""Why what a route asks for cannot be held to, and the cure; None if it can."""


class Routes:
    """The routes of an application, and what the layers of the edge want to know of the one that will serve a request.

    Args:
        app: the application; a mounted one inside it is none of its routes.
    """

    __slots__ = ("_app", "_exact", "_note", "_optional", "_refusal", "_required", "_table", "_version")

    def __init__(self, app: FastAPI) -> None:
        self._app = app
        # Of this application alone: one that is mounted in it, with an edge of its own, has other routes for the same request.
        self._note = f"{__name__}:{id(self)}"
        self._table: tuple[Route, ...] = ()
        self._exact: dict[tuple[str, str], Route] = {}
        self._version: object = None
        self._refusal: Refusal | None = None
        self._optional = KeyRules()
        self._required = KeyRules(required=True)

    def __iter__(self) -> Iterator[Route]:
        """Every route there is by now.

        Raises:
            ConfigurationError: see `options_of`.
        """
        for route in iter_route_contexts(self._app.routes):
            regex = getattr(route, "path_regex", None)
            methods = getattr(route, "methods", None)
            if regex is not None and methods:
                path, template = route.path or "", route.path_format or ""
                asked = tuple(_requirements(getattr(route, "dependant", None)))
                yield Route(path, template, _pattern(route), frozenset(methods), regex, options_of(route), asked)

    def beyond(self) -> Iterator[str]:
        """The paths of routes in mounted applications that ask for something by `edge(...)`, where no edge is that would look.

        A permission is not counted: it is asked for there as well, as a dependency.
        """
        yield from _declared(self._app.routes, "")

    def refuse_later(self, refusal: Refusal) -> None:
        """From now on, do not serve a route that `refusal` says something about."""
        self._refusal = refusal

    def check(self) -> None:
        """Look at every route there is by now.

        Raises:
            ConfigurationError: one asks for what cannot be held to.
        """
        for route in self:
            said = None if self._refusal is None else self._refusal(route)
            if said is not None:
                raise ConfigurationError(said)
        for path in self.beyond():
            raise ConfigurationError(not_looked_at(path))

    def options(self, scope: Scope, context: RequestContext) -> EdgeOptions:
        """What the route asks that will serve the request.

        Raises:
            ConfigurationError: it asks for what cannot be held to.
        """
        notes = context.notes
        if notes is None:
            notes = context.notes = {}
        known = notes.get(self._note)
        if known is None:
            route = self._find(scope)
            if route is None:
                known = _NO_ROUTE
            else:
                if route.refused is not None:
                    raise ConfigurationError(route.refused)
                known = route
                if context.route is None:
                    context.route = route.path_format  # for the log of what is refused before the router is asked
            notes[self._note] = known
        assert isinstance(known, Route)
        return known.options

    def _find(self, scope: Scope) -> Route | None:
        path, method = path_of(scope), scope["method"]
        known = self._exact.get((path, method))
        if known is not None:
            return known
        found = _first(self._table, path, method)
        if found is None and self._is_older_than_the_routes():
            found = _first(self._table, path, method)
        return found

    def _is_older_than_the_routes(self) -> bool:
        """Whether the table had to be made anew. Only asked where it has no answer: a flood of unknown paths must stay cheap."""
        # Not public; without it every unknown path is looked for in the application.
        version = getattr(self._app.router, "_get_routes_version", object)()
        if version == self._version:
            return False
        self._version = version
        refusal = self._refusal
        self._table = table = tuple(self if refusal is None else (one._replace(refused=refusal(one)) for one in self))
        # Paths without a parameter, which need no regular expressions: what is written for the first route that fits each.
        plain = [(route.path, method) for route in table if "{" not in route.path for method in route.methods]
        self._exact = {one: found for one in plain if (found := _first(table, *one)) is not None}
        return True

    def methods(self, scope: Scope) -> set[str]:
        """All methods that the routes serve which the request's path fits."""
        path = path_of(scope)
        return {method for route in self if route.regex.match(path) for method in route.methods}

    # -- what the layers ask -----------------------------------------------------------------------------------------

    def key_rules(self, scope: Scope) -> KeyRules | None:
        """For `Idempotency(rules_for=...)`."""
        mode = self.options(scope, context_of(scope)).key
        return self._required if mode == "required" else self._optional if mode == "optional" else None

    def may_replay(self, context: RequestContext, _stored: StoredAnswer) -> bool:
        """For `Idempotency(may_replay=...)`: whether who asks now has the permissions that the route's dependencies ask for."""
        # They do not run for a stored answer. `key_rules` ran before, so the route is known.
        route = (context.notes or {}).get(self._note, _NO_ROUTE)
        assert isinstance(route, Route)
        return not route.required or all(one.holds(context) for one in route.required)

    def maximum_s(self, scope: Scope) -> float | None:
        """For `Deadline(maximum_for=...)`."""
        return self.options(scope, context_of(scope)).deadline_s

    def priority(self, scope: Scope, context: RequestContext) -> Priority:
        """For `ConcurrencyLimit(priority=...)`."""
        return self.options(scope, context).priority

    def may_repeat(self, scope: Scope) -> bool | None:
        """For `RequestRetry(may_repeat=...)`."""
        return self.options(scope, context_of(scope)).retry

    def quotas(self) -> list[Quota]:
        """The routes' own quotas, each counting nothing but requests to its routes."""
        found = {id(route.options.quota): route.options.quota for route in self if route.options.quota is not None}
        return [replace(quota, subject=self._subject(quota)) for quota in found.values()]

    def _subject(self, quota: Quota) -> SubjectOf:
        def subject(scope: Scope, context: RequestContext) -> str | None:
            return quota.subject(scope, context) if self.options(scope, context).quota is quota else None

        return subject


class LaterRoutes:
    """The innermost layer of the edge: looks at the routes once they are all there. What it costs a request is a look at a note.

    Args:
        app: the application around which this stands.
        routes: its routes.
    """

    __slots__ = ("_routes", "app")

    def __init__(self, app: App, *, routes: Routes) -> None:
        self.app = app
        self._routes = routes

    def __call__(self, scope: Scope, receive: Receive, send: Send) -> Awaitable[None]:
        """Pass a connection on.

        Raises:
            ConfigurationError: its route asks for what cannot be held to.
        """
        if scope["type"] == "http":
            self._routes.options(scope, context_of(scope))
            return self.app(scope, receive, send)
        return self._started(scope, receive, send) if scope["type"] == "lifespan" else self.app(scope, receive, send)

    async def _started(self, scope: Scope, receive: Receive, send: Send) -> None:
        async def checked(message: Message) -> None:
            if message["type"] == "lifespan.startup.complete":
                self._routes.check()  # raised into the application's lifespan, which ends what it began and tells the server
            await send(message)

        await self.app(scope, receive, checked)


def not_looked_at(path: str) -> str:
    """Why a route that `Routes.beyond` found cannot be served, and the cure."""
    return (
        f"{path} has edge(...) and belongs to a mounted application, whose routes nobody looks at: include a router instead, or "
        "call install on the mounted application, before this one"
    )


def _declared(routes: Iterable[Any], prefix: str) -> Iterator[str]:
    for mount in routes:
        inside = getattr(mount, "app", None)
        if not isinstance(mount, Mount) or getattr(getattr(inside, "state", None), "holdfast", None) is not None:
            continue
        path = prefix + mount.path
        for route in iter_route_contexts(mount.routes):
            if replace(options_of(route), permission=None) != PLAIN:
                yield f"{path}{route.path}"
        yield from _declared(mount.routes, path)


_NO_ROUTE = Route("", "", "", frozenset(), re.compile(""), PLAIN)


def _requirements(dependant: Any) -> Iterator[Requirement]:
    """All that are asked for in a tree of dependencies."""
    for one in getattr(dependant, "dependencies", ()):
        if isinstance(one.call, Requirement):
            yield one.call
        yield from _requirements(one)


def _first(routes: Iterable[Route], path: str, method: str) -> Route | None:
    for route in routes:
        if method in route.methods and route.regex.match(path):
            return route
    return None


def _pattern(route: Any) -> str:
    """The route's path in the words of `RoutePatterns`: one that swallows the rest of a path is a `*`."""
    path: str = route.path_format
    convertors: dict[str, object] = getattr(route, "param_convertors", {})
    for name, convertor in convertors.items():
        if isinstance(convertor, PathConvertor):
            path = path.partition(f"{{{name}}}")[0] + "*"
    return path
