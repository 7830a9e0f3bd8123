"""Whose request it is, for whoever counts: the client's network, the tenant, the principal, the route.

    Quota("login", rate=5, per=60, burst=5, subject=by_route("/login", each=by_client))

A subject is a text that only layers of ours see: it stands in no log, label or header. Who proved nothing is counted by address,
never under one name with everybody else. An IPv6 client has at least 2^64 addresses, so it is counted by its /64, and one mapped
from IPv4 as what it is. The address is what the client-address layer found behind trusted proxies; without that layer it is the
socket's peer, and no header is ever looked at: sending another `X-Forwarded-For` every time changes nothing.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache
from ipaddress import AddressValueError, IPv6Address

from .context import RequestContext
from .interface import Scope
from .routes import RouteTable

__all__ = ["SubjectOf", "by_client", "by_principal", "by_route", "by_tenant"]

SubjectOf = Callable[[Scope, RequestContext], str | None]
"""Who a request is counted for; None: it is not counted."""

_ADDRESS_MAX = 64


def by_client(scope: Scope, context: RequestContext) -> str:
    """The client's network: an IPv4 address, or the /64 of an IPv6 address. All who have none (Unix sockets) are one."""
    address = context.client_address
    if address is None:
        peer = scope.get("client")
        address = str(peer[0]) if peer else ""
    return "c:" + (_network(address) if ":" in address else address[:_ADDRESS_MAX])


def by_tenant(scope: Scope, context: RequestContext) -> str:
    """The tenant that authentication proved; without one `by_client`."""
    return by_client(scope, context) if context.tenant is None else "t:" + context.tenant


def by_principal(scope: Scope, context: RequestContext) -> str:
    """The principal within its tenant, as authentication proved them; without a principal `by_client`."""
    if context.principal is None:
        return by_client(scope, context)
    tenant = context.tenant or ""
    return f"p:{len(tenant)}:{tenant}{context.principal}"  # the length: no tenant can be called so that two texts are equal


def by_route(*templates: str, each: SubjectOf | None = None) -> SubjectOf:
    """Counts requests to these routes only.

    Args:
        templates: see `routes.RouteTable`.
        each: who else is told apart within a route; default None: a route is counted as a whole.

    Raises:
        ConfigurationError: a template cannot match.
    """
    table = RouteTable(dict.fromkeys(templates))

    def subject(scope: Scope, context: RequestContext) -> str | None:
        found = table.match(scope)
        if found is None:
            return None
        if each is None:
            return "r:" + found[0]
        inner = each(scope, context)
        return None if inner is None else f"r:{found[0]} {inner}"

    return subject


@lru_cache(maxsize=4096)
def _network(address: str) -> str:
    try:
        parsed = IPv6Address(address[: _ADDRESS_MAX * 2].partition("%")[0])
    except AddressValueError:
        return "?"
    mapped = parsed.ipv4_mapped
    return f"{int(parsed) >> 64:x}::/64" if mapped is None else str(mapped)
