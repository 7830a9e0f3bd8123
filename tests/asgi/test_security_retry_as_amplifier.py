"""Risk: retries as an amplifier. Whatever a client can make fail, the load it causes grows by a fifth at most."""

from __future__ import annotations

import pytest

from holdfast.asgi.interface import Receive, Scope, Send
from holdfast.asgi.retry import RequestRetry
from holdfast.budget import RetryBudget
from holdfast.errors import Contended, DeadlineExceeded, InProgress, KeyReused, LoadShed, OutcomeUnknown, Unavailable
from holdfast.testing import ManualClock, seeded_random
from tests.asgi.asgi_calls import call

REQUESTS = 1_000


class Failing:
    """An application that fails at every call, in one way."""

    def __init__(self, way: int | Exception) -> None:
        self._way = way
        self.calls = 0

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        self.calls += 1
        if isinstance(self._way, Exception):
            raise type(self._way)("again and again")
        await send({"type": "http.response.start", "status": self._way, "headers": []})
        await send({"type": "http.response.body", "body": b""})


def layer_around(app: Failing, clock: ManualClock) -> RequestRetry:
    """The layer with its defaults, on a clock of the test's own."""
    return RequestRetry(app, budget=RetryBudget(clock=clock), clock=clock, random=seeded_random(4))


@pytest.mark.parametrize(
    "way",
    [
        503,
        ConnectionResetError(),
        TimeoutError(),
        Contended(),
        Unavailable(),
        OutcomeUnknown(),
        DeadlineExceeded(),
        InProgress(),
    ],
    ids=repr,
)
async def test_forced_failures_are_repeated_a_fifth_at_most(way: int | Exception) -> None:
    """A thousand requests in ten seconds that all fail: at most 1,200 calls of the application."""
    clock = ManualClock()
    app = Failing(way)
    layer = layer_around(app, clock)
    started = clock.monotonic()
    for number in range(REQUESTS):
        clock.advance(max(0.0, started + number / 100 - clock.monotonic()))
        await call(layer)
    assert REQUESTS <= app.calls <= 1.2 * REQUESTS


async def test_an_overload_that_turns_a_third_away_gets_a_tenth_more() -> None:
    """Most retries succeed there, and each was load that the service could have done without."""
    clock, draw = ManualClock(), seeded_random(8)
    app, fine = Failing(503), Failing(200)

    async def overloaded(scope: Scope, receive: Receive, send: Send) -> None:
        await (app if draw() < 1 / 3 else fine)(scope, receive, send)

    layer = RequestRetry(overloaded, budget=RetryBudget(clock=clock), clock=clock, random=seeded_random(4))
    started = clock.monotonic()
    for number in range(4 * REQUESTS):
        clock.advance(max(0.0, started + number / 100 - clock.monotonic()))
        await call(layer)
    assert app.calls + fine.calls <= 1.1 * 4 * REQUESTS + (clock.monotonic() - started) + 10


async def test_failures_among_successes_are_repeated_a_fifth_at_most() -> None:
    """An attacker among honest clients, half of all requests: their successes do not pay for more than a fifth."""
    clock = ManualClock()
    app, fine = Failing(503), Failing(200)
    layer = layer_around(app, clock)
    for _ in range(REQUESTS):
        layer.app = app
        await call(layer)
        layer.app = fine
        await call(layer)
        clock.advance(0.01)
    assert app.calls + fine.calls <= 1.2 * 2 * REQUESTS


@pytest.mark.parametrize("way", [400, 401, 403, 404, 409, 422, 429, 500, LoadShed(), KeyReused()], ids=repr)
async def test_refusals_are_never_repeated(way: int | Exception) -> None:
    """What a client can provoke for nothing costs one call each."""
    clock = ManualClock()
    app = Failing(way)
    layer = layer_around(app, clock)
    for _ in range(50):
        await call(layer)
    assert app.calls == 50


async def test_planted_layer_without_a_budget_is_an_amplifier() -> None:
    """The same without a budget calls three times as often: the check above can fail."""
    app = Failing(503)
    layer = RequestRetry(app, budget=None, clock=ManualClock(), random=seeded_random(4))
    for _ in range(100):
        await call(layer)
    assert app.calls == 300
