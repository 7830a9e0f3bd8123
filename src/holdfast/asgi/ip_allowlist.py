"""Sensitive routes only for given networks; everybody else is told 403, and nothing more.

    app = Stack(
        api,
        partial(ClientAddress, trusted=["198.51.100.0/24"]),
        partial(IpAllowlist, rules={"/admin/*": ["192.0.2.0/24"], "/metrics": ["203.0.113.0/28"]}),
    )

A request must satisfy every rule that covers its path, so an added rule only ever takes away. Refused is, on such a path:

- an address outside of the networks; a rule without networks refuses everybody.
- an unknown address: no `ClientAddress` outside of this layer, or a proxy that does not say for whom it speaks.
- somebody not trusted who says that he speaks for others: either he forges, or he is a proxy that nobody named, and then his
  address says nothing about the client. Without this, a proxy inside the allowed network would open the routes to the world.

Paths without a rule are not touched. It is a second wall: authentication stays behind it.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable, Mapping
from typing import ClassVar, cast

from ..errors import ConfigurationError
from .client_address import peer_address
from .context import RequestContext, context_of
from .interface import App, Receive, Scope, Send
from .networks import Networks, parse_address
from .problems import Problem, send_problem
from .route_patterns import RoutePatterns, path_of, readings
from .stack import Place

__all__ = ["IpAllowlist"]

_log = logging.getLogger("holdfast.asgi")

_FORBIDDEN = Problem(403, "forbidden")
_POLICY_VIOLATION = 1008
_SPEAKS_FOR_OTHERS = frozenset({b"x-forwarded-for", b"forwarded", b"x-real-ip"})


class IpAllowlist:
    """Refuses requests and WebSockets on the routes of its rules, unless their address may come.

    Args:
        app: the application around which this stands.
        rules: route patterns (`RoutePatterns`, read in the protecting way) to networks in CIDR notation; a map, or pairs where
            one pattern has several rules.

    Raises:
        ConfigurationError: there is no rule, a pattern or a network cannot be read, or a rule allows everybody.
    """

    place: ClassVar[Place] = Place.ALLOWLIST

    __slots__ = ("_covered", "_rules", "app")

    def __init__(self, app: App, *, rules: Mapping[str, Iterable[str]] | Iterable[tuple[str, Iterable[str]]]) -> None:
        pairs = [*(cast("Mapping[str, Iterable[str]]", rules).items() if isinstance(rules, Mapping) else rules)]
        if not pairs:
            raise ConfigurationError("an allowlist without rules protects nothing: give it rules, or leave it out")
        self.app = app
        self._rules = tuple(
            (RoutePatterns([pattern], name="rules"), Networks(networks, name=f"the rule for {pattern}"))
            for pattern, networks in pairs
        )
        self._covered = RoutePatterns((pattern for pattern, _ in pairs), name="rules")

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Handle one connection."""
        if scope["type"] == "lifespan" or self._allowed(scope):
            await self.app(scope, receive, send)
        elif scope["type"] == "http":
            await send_problem(send, _FORBIDDEN, context_of(scope))
        else:
            # Before it was accepted: the server answers the handshake with 403.
            await send({"type": "websocket.close", "code": _POLICY_VIOLATION})

    def _allowed(self, scope: Scope) -> bool:
        # With the server's root path and without: an application behind one may be asked for both.
        paths = [scope["path"], path_of(scope)] if scope.get("root_path") else [scope["path"]]
        known = [one for one in map(readings, paths) if self._covered.cover(one)]
        if not known:
            return True
        networks = [allowed for pattern, allowed in self._rules if any(map(pattern.cover, known))]
        context = context_of(scope)
        reason = _reason_against(scope, context, networks)
        if reason is None:
            return True
        _log.warning("request %s: refused by the allowlist: %s", context.request_id or "-", reason)
        return False


def _reason_against(scope: Scope, context: RequestContext, networks: list[Networks]) -> str | None:
    if context.client_address is None:
        return (
            "the client's address is not known (is there a ClientAddress outside, and do the proxies set its header?)"
        )
    address = parse_address(context.client_address)
    if address is None or not all(address in one for one in networks):
        return "the address is not among those allowed"
    if address == peer_address(scope) and not _SPEAKS_FOR_OTHERS.isdisjoint(name for name, _ in scope["headers"]):
        return "the peer speaks for others and is not trusted (if it is a proxy, name it in ClientAddress(trusted=...))"
    return None
