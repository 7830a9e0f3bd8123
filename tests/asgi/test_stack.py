"""Layers stand in one order, and a wrong one is refused with what to move where."""

from __future__ import annotations

from functools import partial
from typing import Any, ClassVar

import pytest

from holdfast.asgi.interface import App, Receive, Scope, Send
from holdfast.asgi.stack import Place, Stack
from holdfast.errors import ConfigurationError
from tests.asgi.asgi_calls import answering, call


class Passing:
    """A layer that writes its name into the scope on the way in."""

    place: ClassVar[Place]

    def __init__(self, app: App, *, mark: str = "") -> None:
        self.app = app
        self.mark = mark or type(self).__name__

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        scope.setdefault("passed", []).append(self.mark)
        await self.app(scope, receive, send)


def layer(place: Place) -> type[Passing]:
    """A layer class of its own for `place`."""
    return type(place.name.title().replace("_", ""), (Passing,), {"place": place})


LAYERS = {place: layer(place) for place in Place}


class Foreign:
    """A middleware of somebody else: no place."""

    def __init__(self, app: App) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        await self.app(scope, receive, send)


async def test_layers_are_passed_from_outside_to_inside() -> None:
    """All places in their order are accepted and passed in it, with settings by `partial`."""
    layers: list[Any] = [*LAYERS.values()]
    layers[3] = partial(layers[3], mark="drain")
    stack = Stack(answering(), *layers)
    passed: list[str] = []
    assert (await call(stack, passed=passed)).status == 200
    assert passed == [*stack.names[:3], "drain", *stack.names[4:]]
    assert list(stack.names) == [kind.__name__ for kind in LAYERS.values()]


@pytest.mark.parametrize("number", range(len(Place) - 1))
def test_planted_wrong_order_is_refused(number: int) -> None:
    """Any two neighbours the wrong way round are told, with where to move which."""
    layers = [*LAYERS.values()]
    layers[number], layers[number + 1] = layers[number + 1], layers[number]
    inner, outer = layers[number + 1].__name__, layers[number].__name__
    with pytest.raises(ConfigurationError, match=f"{inner} stands inside {outer}; move it to just outside {outer}"):
        Stack(answering(), *layers)


def test_it_is_moved_outside_the_outermost_that_should_be_inside() -> None:
    """The text names the place where it belongs, not merely the neighbour it must pass."""
    with pytest.raises(ConfigurationError, match="move it to just outside Deadline"):
        Stack(answering(), LAYERS[Place.DEADLINE], LAYERS[Place.RETRY], LAYERS[Place.ACCESS_LOG])


def test_planted_double_is_refused() -> None:
    """The same layer twice is told, also when one of them was put around the application by hand."""
    retry = LAYERS[Place.RETRY]
    with pytest.raises(ConfigurationError, match="Retry is there twice"):
        Stack(answering(), retry, retry)
    with pytest.raises(ConfigurationError, match="Retry is there twice"):
        Stack(retry(answering()), retry)
    with pytest.raises(ConfigurationError, match="Retry is there twice"):
        Stack(Stack(answering(), retry), partial(retry, mark="x"))


def test_what_was_put_around_the_application_by_hand_counts() -> None:
    """A stack inside a stack is checked as one."""
    inside = Stack(answering(), LAYERS[Place.RECOVERY])
    with pytest.raises(ConfigurationError, match="Recovery stands inside Deadline"):
        Stack(inside, LAYERS[Place.DEADLINE])
    assert Stack(inside, LAYERS[Place.REQUEST_ID]).names == ("RequestId", "Recovery")


def test_two_layers_may_share_a_place_and_others_have_none() -> None:
    """A rate limit and a concurrency limit are both admission; a foreign middleware may stand anywhere."""
    one, two = layer(Place.ADMISSION), layer(Place.ADMISSION)
    two.__name__ = "ConcurrencyLimit"
    stack = Stack(answering(), Foreign, one, Foreign, two)
    assert stack.names == ("Foreign", "Admission", "Foreign", "ConcurrencyLimit")
