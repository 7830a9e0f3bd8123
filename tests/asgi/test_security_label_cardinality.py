"""Risk: labels that a caller makes up (CVE-2022-21698, CVE-2023-45142). What lines and events are counted by is bounded."""

from __future__ import annotations

import logging
import random
from functools import partial

import pytest

from holdfast.asgi.access_log import AccessLog
from holdfast.asgi.admission import ConcurrencyLimit
from holdfast.asgi.authentication import Authentication, Principal, bearer_token
from holdfast.asgi.context import context_of
from holdfast.asgi.interface import Receive, Scope, Send
from holdfast.asgi.quotas import Quota
from holdfast.asgi.rate_limit import RateLimit
from holdfast.asgi.recovery import Recovery
from holdfast.asgi.request_id import RequestId
from holdfast.asgi.retry import RequestRetry
from holdfast.asgi.stack import Stack
from holdfast.asgi.subjects import by_tenant
from holdfast.errors import Unavailable
from holdfast.testing import RecordingHook
from tests.asgi.asgi_calls import answering, call

REQUESTS = 3000
LABELS = ("method", "route", "status", "outcome", "effect", "problem")


class Route:
    """What a framework puts into the scope."""

    path = "/users/{id}"


async def application(scope: Scope, receive: Receive, send: Send) -> None:
    """Knows one route, which fails now and then."""
    if scope["path"].startswith("/users/"):
        scope["route"] = Route
        if scope["path"].endswith("7"):
            raise Unavailable(f"the database of {scope['path']} is away")
        await answering()(scope, receive, send)
    else:
        await answering(404)(scope, receive, send)


class Believing:
    """Takes the token for the tenant."""

    challenge = "Bearer"

    async def authenticate(self, scope: Scope, /) -> Principal | None:
        """Whatever it says."""
        token = bearer_token(scope["headers"], length_max=100)
        return None if token is None else Principal("ada", "issuer", token)


async def test_random_requests_make_few_series(caplog: pytest.LogCaptureFixture, rng: random.Random) -> None:
    """Three thousand random methods, paths, agents and tenants: as many values as there are routes, codes and classes."""
    caplog.set_level(logging.INFO, logger="holdfast.asgi.access_log")
    hook = RecordingHook()
    app = Stack(
        application,
        RequestId,
        AccessLog,
        Recovery,
        partial(Authentication, authenticators=[Believing()]),
        partial(RateLimit, quotas=[Quota("tenant", rate=1, burst=1, subject=by_tenant)], events=hook.stream),
        partial(ConcurrencyLimit, events=hook.stream),
        partial(RequestRetry, events=hook.stream, attempts=2),
    )
    for number in range(REQUESTS):
        made_up = f"{rng.getrandbits(64):x}"
        await call(
            app,
            rng.choice(["GET", "POST", made_up.upper()]),
            rng.choice([f"/users/{number}", f"/{made_up}", f"/users/{made_up}/../{number}"]),
            {"User-Agent": made_up, "X-Request-Id": made_up, "Authorization": f"Bearer {rng.choice([made_up, 'one'])}"},
        )
    lines = [record.msg for record in caplog.records if isinstance(record.msg, dict)]
    assert len(lines) == REQUESTS
    assert {line["route"] for line in lines} == {"/users/{id}", "<unmatched>"}
    assert {line["method"] for line in lines} == {"GET", "POST", "<other>"}
    assert len({tuple(line.get(label) for label in LABELS) for line in lines}) <= 30
    told = {str(value) for event in hook.events for value in vars_of(event) if isinstance(value, str)}
    assert told
    assert told <= {
        "tenant",
        "ratelimit",
        "request",
        "requests",
        "attempts",
        "budget",
        "deadline",
        "unsent",
        "body",
        "lost",
    }


async def test_planted_label_is_found(caplog: pytest.LogCaptureFixture) -> None:
    """A layer that takes the path for the route makes as many values as there are paths, and the lines show it."""
    caplog.set_level(logging.INFO, logger="holdfast.asgi.access_log")

    async def naming_paths(scope: Scope, receive: Receive, send: Send) -> None:
        context_of(scope).route = scope["path"]
        await application(scope, receive, send)

    for number in range(50):
        await call(AccessLog(naming_paths), path=f"/{number}")
    assert len({record.msg["route"] for record in caplog.records if isinstance(record.msg, dict)}) == 50


def vars_of(event: object) -> list[object]:
    """The values of an event's fields."""
    return [getattr(event, name) for name in type(event).__dataclass_fields__]  # type: ignore[attr-defined]
