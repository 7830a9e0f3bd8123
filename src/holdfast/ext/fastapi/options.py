"""What a route says about itself: `edge(...)`, beside its path.

edge(deadline=3, priority="critical")                       # arguments for the route's decorator

@app.post("/transfers", **edge(key="required", permission="transfers:write", deadline=3, priority="critical"))
async def transfer(principal: Annotated[Principal | None, Depends(current_principal)]): ...

@app.get("/books", **edge(allowlist="operators", quota=Quota("books", rate=1, per=60, burst=5), retry=False))
async def books(): ...
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

from fastapi import Depends

from ...asgi.authentication import Principal, Requirement
from ...asgi.authentication import current_principal as principal_now
from ...asgi.authentication import require as requirement
from ...asgi.gate import Priority
from ...asgi.networks import Networks
from ...asgi.quotas import Quota
from ...deadline import seconds
from ...errors import ConfigurationError

if TYPE_CHECKING:
    from datetime import timedelta

__all__ = [
    "PLAIN",
    "EdgeOptions",
    "KeyMode",
    "PriorityName",
    "current_principal",
    "edge",
    "options_of",
    "require",
]

KeyMode = Literal["required", "optional", "ignored"]
PriorityName = Literal["critical", "normal", "batch"]

_DEADLINE_MAX_S = 3600.0


@dataclass(frozen=True, slots=True)
class EdgeOptions:
    """What one route asks of the edge. Immutable. Made by `edge`, whose arguments these are.

    Attributes:
        key: what an Idempotency-Key means.
        permission: what a caller must be allowed, or None.
        deadline_s: most seconds for a request, or None: as everywhere.
        priority: how much it matters when not all can be served.
        quota: a rate limit of the route's own, or None.
        retry: whether a request may be run again as a whole; None: its method decides.
        allowlist: the name of networks, networks, or None: from everywhere.
    """

    key: KeyMode = "optional"
    permission: str | None = None
    deadline_s: float | None = None
    priority: Priority = Priority.NORMAL
    quota: Quota | None = None
    retry: bool | None = None
    allowlist: str | tuple[str, ...] | None = None

    def document(self) -> dict[str, object]:
        """What the OpenAPI document says of it: nothing about networks."""
        told: dict[str, object] = {"x-idempotency-key": self.key}
        if self.permission is not None:
            told["x-permission"] = self.permission
        if self.deadline_s is not None:
            told["x-deadline-seconds"] = self.deadline_s
        if self.priority is not Priority.NORMAL:
            told["x-priority"] = self.priority.name.lower()
        if self.quota is not None:
            told["x-quota"] = self.quota.name
        return told


PLAIN = EdgeOptions()
"""What a route asks that says nothing."""


class _Marks(dict[str, Any]):
    """A route's `openapi_extra`, which carries its options: routers that include others hand on this very object."""

    def __init__(self, options: EdgeOptions, more: Mapping[str, Any]) -> None:
        super().__init__({**more, **options.document()})
        self.options = options


def edge(
    *,
    key: KeyMode = "optional",
    permission: str | None = None,
    deadline: float | timedelta | None = None,
    priority: PriorityName = "normal",
    quota: Quota | None = None,
    retry: bool | None = None,
    allowlist: str | Sequence[str] | None = None,
    dependencies: Sequence[Any] = (),
    openapi_extra: Mapping[str, Any] | None = None,
) -> dict[str, Any]:
    """Arguments for a route's decorator: `@app.post("/transfers", **edge(key="required"))`. They hold in included routers too.

    What is given here for a layer that is off is refused by `install`, and never ignored.

    Args:
        key: `required`: 400 without an Idempotency-Key; `optional` (default): a key counts if it is there; `ignored`: it does
            not count.
        permission: what a caller must be allowed, 403 otherwise, also before a stored answer is given again; default None.
        deadline: the most a request to this route gets, seconds or `timedelta`, instead of `deadline_s`; shorter or longer;
            more than 0.02 s, at most an hour. Default None: `deadline_s`. What the client asks for still shortens it.
        priority: `critical`, `normal` (default) or `batch`: who is refused first when there is too much to do.
        quota: a rate limit of the route's own, beside those of the service; routes that share one are counted together.
        retry: False: never run again as a whole. True: run again though its method is not idempotent, which is the author's
            promise that twice is as good as once. Default None: idempotent methods are.
        allowlist: who may come: the name of networks that the settings hold (`networks`), or networks in CIDR notation.
            Default None: everybody.
        dependencies: those of the route besides, which cannot be given beside `**edge(...)`; after the permission. Default none.
        openapi_extra: the same for what its OpenAPI document says besides; default nothing.

    Raises:
        ConfigurationError: a word is another one, or a value is outside its bounds.
    """
    if key not in {"required", "optional", "ignored"}:
        raise ConfigurationError('key is "required", "optional" or "ignored"')
    if priority not in {"critical", "normal", "batch"}:
        raise ConfigurationError('priority is "critical", "normal" or "batch"')
    options = EdgeOptions(
        key,
        permission,
        None if deadline is None else _deadline_s(deadline),
        Priority[priority.upper()],
        quota,
        retry,
        _networks(allowlist),
    )
    found: dict[str, Any] = {"openapi_extra": _Marks(options, openapi_extra or {})}
    if permission is not None or dependencies:
        permitted = [] if permission is None else [Depends(require(permission))]
        found["dependencies"] = [*permitted, *dependencies]
    return found


def _deadline_s(deadline: float | timedelta) -> float:
    deadline_s = seconds(deadline, name="deadline")
    if not 0.02 < deadline_s <= _DEADLINE_MAX_S or not math.isfinite(deadline_s):
        raise ConfigurationError(f"deadline must be more than 0.02 s and at most an hour, not {deadline_s:g} s")
    return deadline_s


def _networks(allowlist: str | Sequence[str] | None) -> str | tuple[str, ...] | None:
    if allowlist is None or (isinstance(allowlist, str) and allowlist):
        return allowlist
    networks = tuple(allowlist)
    Networks(networks, name="allowlist")
    return networks


def options_of(route: object) -> EdgeOptions:
    """The options of a route, or of what `iter_route_contexts` gives for one.

    Raises:
        ConfigurationError: something has made a copy of what `edge` gave, and lost the options.
    """
    extra = getattr(route, "openapi_extra", None)
    if isinstance(extra, _Marks):
        return extra.options
    if extra and "x-idempotency-key" in extra:
        path = getattr(route, "path", "a route")
        raise ConfigurationError(
            f"{path}: openapi_extra is a copy of what edge() gave, and has lost what it says; pass **edge(...) itself, "
            "and what is to be added as edge(openapi_extra=...)"
        )
    return PLAIN


async def current_principal() -> Principal | None:
    """A dependency: who asks, or None where nobody proved anything."""
    return principal_now()


def require(*permissions: str) -> Requirement:
    """A dependency, `Depends(require("payments:write"))`: 401 without a principal, 403 without all of `permissions`.

    Raises:
        ConfigurationError: a permission is empty.
    """
    return requirement(*permissions)
