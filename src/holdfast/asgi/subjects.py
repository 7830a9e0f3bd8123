"""Whose request it is, for whoever counts: the client's network, the tenant, the principal, the route.

    Quota("login", rate=5, per=60, burst=5, subject=by_route("/login", each=by_client))

A subject is a text that only layers of ours see: it stands in no log, label or header. Who proved nothing is counted by address,
never under one name with everybody else. An IPv6 client has at least 2^64 addresses, so it is counted by its /64, and one mapped
from IPv4 as what it is. The address is what the client-address layer found behind trusted proxies; without that layer it is the
socket's peer, and no header is ever looked at: sending another `X-Forwarded-For` every time changes nothing.
"""

from __future__ import annotations

from collections.abc import Callable
from hashlib import blake2b

from ..errors import ConfigurationError
from .context import RequestContext
from .interface import Scope
from .networks import parse_address
from .route_patterns import RoutePatterns, path_of

__all__ = ["SubjectOf", "by_client", "by_principal", "by_route", "by_tenant"]

SubjectOf = Callable[[Scope, RequestContext], str | None]
"""Who a request is counted for; None: it is not counted."""

_ADDRESS_MAX = 64
_NAME_MAX = 128


def by_client(scope: Scope, context: RequestContext) -> str:
    """The client's network: an IPv4 address, or the /64 of an IPv6 address. All who have none (Unix sockets) are one."""
    address = context.client_address
    if address is None:
        peer = scope.get("client")
        address = str(peer[0]) if peer else ""
    return "c:" + (_network(address) if ":" in address else address[:_ADDRESS_MAX])


def by_tenant(scope: Scope, context: RequestContext) -> str:
    """The tenant that authentication proved; without one `by_client`."""
    return by_client(scope, context) if context.tenant is None else "t:" + _short(context.tenant)


def by_principal(scope: Scope, context: RequestContext) -> str:
    """The principal within its tenant, as authentication proved them; without a principal `by_client`."""
    if context.principal is None:
        return by_client(scope, context)
    tenant = context.tenant or ""
    return "p:" + _short(
        f"{len(tenant)}:{tenant}{context.principal}"
    )  # the length: no two pairs can make the same text


def by_route(*patterns: str, each: SubjectOf | None = None) -> SubjectOf:
    """Counts requests to these routes only, however their paths are spelled (`RoutePatterns.covers`).

    Args:
        patterns: see `route_patterns`; each is a subject of its own, and the first that covers a path counts.
        each: who else is told apart within a route; default None: a route is counted as a whole.

    Raises:
        ConfigurationError: there is no pattern, or one is malformed.
    """
    if not patterns:
        raise ConfigurationError("by_route needs at least one pattern of paths")
    routes = RoutePatterns(patterns, name="by_route")
    single = [("r:" + pattern, RoutePatterns([pattern], name="by_route")) for pattern in patterns]

    def subject(scope: Scope, context: RequestContext) -> str | None:
        path = path_of(scope)
        if not routes.covers(path):
            return None
        # Of a path that is too long to read every pattern says yes: so the first.
        route = next(name for name, one in single if one.covers(path))
        if each is None:
            return route
        inner = each(scope, context)
        return None if inner is None else f"{route} {inner}"

    return subject


def _short(text: str) -> str:
    # Marked, so that nobody can be called like somebody's hash.
    if len(text) <= _NAME_MAX:
        return "=" + text
    return "#" + blake2b(text.encode("utf-8", "surrogatepass"), digest_size=16).hexdigest()


def _network(text: str) -> str:
    address = parse_address(text.partition("%")[0])
    if address is None:
        return "?"
    return str(address) if address.version == 4 else f"{int(address) >> 64:x}::/64"
