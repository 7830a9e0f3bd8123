"""The one order in which the layers of the edge work, and a composition that holds to it.

    app = Stack(
        api,
        RequestId,                              # the outermost first
        AccessLog,
        Recovery,
        partial(Deadline, maximum=5),           # settings by functools.partial
    )

Why this order, from outside to inside:

    request id          every line and every document names the request
    access log          sees what the client got, also when a layer below refused or failed
    recovery            whatever is raised below becomes a document
    draining            a service that stops refuses before anything is spent, and knows what is under way
    health              answers while the service starts, drains or refuses callers
    client address      who that is decides the limits, and stands in the log
    allowlist           an address that may not come costs nothing more
    authentication      limits and keys are counted for somebody proven
    deadline            from here on work is done, so from here on the time counts down and a hang-up cancels
    body limit          a body that is too large takes no place in a queue
    admission           what does not fit is refused before it holds a connection, a key or a buffer
    idempotency         one key, one effect; outside retry, so that a repetition is not mistaken for the client's
    retry               again, as a whole, and only what is left below

A layer that a service does without is left out; a middleware of somebody else may stand anywhere. What is checked is the class
attribute `place`, also of layers that were put around the application by hand before.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from enum import IntEnum
from functools import partial

from ..errors import ConfigurationError
from .interface import App, Receive, Scope, Send

__all__ = ["Place", "Stack", "places_checked"]


class Place(IntEnum):
    """Where a layer stands; the smaller the further out. A middleware states its own as the class attribute `place`."""

    REQUEST_ID = 10
    ACCESS_LOG = 20
    RECOVERY = 30
    DRAINING = 40
    HEALTH = 50
    CLIENT_ADDRESS = 60
    ALLOWLIST = 70
    AUTHENTICATION = 80
    DEADLINE = 90
    BODY_LIMIT = 100
    ADMISSION = 110
    IDEMPOTENCY = 120
    RETRY = 130


Middleware = Callable[[App], App]
"""A middleware class, or `functools.partial` of one with its settings."""


class Stack:
    """An application inside its layers. It is an ASGI application itself, and as safe to share as they are.

    Args:
        app: the application; it may be inside layers already.
        layers: middleware classes or partials of them, the outermost first.

    Attributes:
        app: the outermost layer.
        names: the names of all layers, the outermost first.

    Raises:
        ConfigurationError: two layers stand in the wrong order, or one is there twice; the text says what to move where.
    """

    def __init__(self, app: App, *layers: Middleware) -> None:
        inner = _around(app)
        self.names = places_checked([*(_named(layer) for layer in layers), *inner])
        for layer in reversed(layers):
            app = layer(app)
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Hand a connection to the outermost layer."""
        await self.app(scope, receive, send)


def places_checked(layers: Sequence[tuple[str, Place | None]]) -> tuple[str, ...]:
    """The names of `layers`, if they stand in order; pure.

    Args:
        layers: the name and the place of each, the outermost first; without a place it may stand anywhere.

    Raises:
        ConfigurationError: see `Stack`.
    """
    seen: dict[str, Place] = {}
    for name, place in layers:
        if place is None:
            continue
        if name in seen:
            raise ConfigurationError(f"{name} is there twice; take one of them out")
        # The outermost of those that should stand inside this one: that is where it has to go.
        for other, other_place in seen.items():
            if other_place > place:
                raise ConfigurationError(
                    f"{name} stands inside {other}; move it to just outside {other} (from outside to inside: "
                    f"{', '.join(word.name.lower().replace('_', ' ') for word in Place)})"
                )
        seen[name] = place
    return tuple(name for name, _ in layers)


def _named(layer: object) -> tuple[str, Place | None]:
    while isinstance(layer, partial):
        layer = layer.func
    name = getattr(layer, "__name__", type(layer).__name__)
    place = getattr(layer, "place", None)
    return name, place if isinstance(place, Place) else None


def _around(app: object) -> list[tuple[str, Place | None]]:
    # Every middleware of ours holds the next one as `app`; the first object that has no place is the application.
    found: list[tuple[str, Place | None]] = []
    while True:
        if isinstance(app, Stack):
            app = app.app
        place = getattr(type(app), "place", None)
        if not isinstance(place, Place):
            return found
        found.append((type(app).__name__, place))
        app = getattr(app, "app", None)
