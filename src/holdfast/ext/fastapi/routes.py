"""What a route says about itself: whether it needs a key, and who may call it.

@app.post("/transfers", **edge(key="required", permission="transfers:write"))
async def transfer(principal: Annotated[Principal | None, Depends(current_principal)]): ...
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

from fastapi import Depends
from fastapi.routing import iter_route_contexts
from starlette.routing import BaseRoute

from ...asgi.authentication import Principal, Requirement
from ...asgi.authentication import current_principal as principal_now
from ...asgi.authentication import require as requirement
from ...asgi.interface import Scope
from ...asgi.keyed_request import KeyRules
from ...asgi.route_patterns import path_of
from ...errors import ConfigurationError

__all__ = ["KEY_MARK", "PERMISSION_MARK", "KeyMode", "RouteKeys", "current_principal", "edge", "key_mode", "require"]

KeyMode = Literal["required", "optional", "ignored"]
KEY_MARK = "x-idempotency-key"
"""Where an operation of the OpenAPI document says what a key means to it."""
PERMISSION_MARK = "x-permission"


async def current_principal() -> Principal | None:
    """A dependency: who asks, or None where nobody proved anything."""
    return principal_now()


def require(*permissions: str) -> Requirement:
    """A dependency, `Depends(require("payments:write"))`: 401 without a principal, 403 without all of `permissions`.

    Raises:
        ConfigurationError: a permission is empty.
    """
    return requirement(*permissions)


def edge(*, key: KeyMode = "optional", permission: str | None = None) -> dict[str, Any]:
    """Arguments for a route's decorator: `@app.post("/transfers", **edge(key="required"))`.

    Args:
        key: `required`: 400 without an Idempotency-Key; `optional` (default): a key counts if it is there; `ignored`: it does
            not count. Without a store for keys, `install` refuses an application with a required one.
        permission: what a caller must be allowed, 403 otherwise; default None: nothing.

    Raises:
        ConfigurationError: `key` is another word, or the permission is empty.
    """
    if key not in {"required", "optional", "ignored"}:
        raise ConfigurationError('key is "required", "optional" or "ignored"')
    marks = {KEY_MARK: key}
    if permission is None:
        return {"openapi_extra": marks}
    return {
        "openapi_extra": {**marks, PERMISSION_MARK: permission},
        "dependencies": [Depends(require(permission))],
    }


def key_mode(route: object) -> str:
    """What a key means to a route, or to what `iter_route_contexts` gives for one."""
    return str((getattr(route, "openapi_extra", None) or {}).get(KEY_MARK, "optional"))


class RouteKeys:
    """The rules for a request's key, by the route that will serve it; for `Idempotency(rules_for=...)`.

    Args:
        routes: the application's list, looked at for each request, so that later routes count.
    """

    __slots__ = ("_optional", "_required", "_routes")

    def __init__(self, routes: Sequence[BaseRoute]) -> None:
        self._routes = routes
        self._optional = KeyRules()
        self._required = KeyRules(required=True)

    def __call__(self, scope: Scope) -> KeyRules | None:
        """The rules; None: the key does not count."""
        path, method = path_of(scope), scope["method"]
        # Included routers are no routes of their own: this looks into them.
        for route in iter_route_contexts(self._routes):
            regex = getattr(route, "path_regex", None)
            if regex is not None and method in (route.methods or ()) and regex.match(path):
                mode = key_mode(route)
                return self._required if mode == "required" else self._optional if mode == "optional" else None
        return self._optional
