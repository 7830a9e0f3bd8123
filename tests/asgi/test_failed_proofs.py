"""A flood of proofs that do not hold is refused before they are looked at, and nobody else is."""

from __future__ import annotations

from typing import Any

import pytest
from fastapi import FastAPI

from holdfast.asgi.authentication import Authentication, Principal, Unauthenticated
from holdfast.asgi.failed_proofs import FailedProofs
from holdfast.asgi.headers import first
from holdfast.asgi.interface import Scope
from holdfast.asgi.quotas import Quota
from holdfast.ext.fastapi import EdgeSettings, install
from holdfast.shutdown import Drain
from holdfast.testing import ManualClock
from tests.asgi.asgi_calls import Answer, answering, call

THREE = Quota("failed-proofs", rate=1, per=10, burst=3)


class Tokens:
    """Believes one token, and counts how many it looked at."""

    challenge = "Bearer"

    def __init__(self) -> None:
        self.looked_at = 0

    async def authenticate(self, scope: Scope, /) -> Principal | None:
        """Ada, for her token."""
        token = first(scope["headers"], b"x-token")
        if token is None:
            return None
        self.looked_at += 1
        if token != b"good":
            raise Unauthenticated("forged")
        return Principal("ada", "here")


class Edge:
    """Authentication that counts failures by a clock of the test's."""

    def __init__(self, **settings: Any) -> None:
        self.clock, self.tokens = ManualClock(), Tokens()
        failures = FailedProofs(THREE, clock=self.clock, **settings)
        self.app = Authentication(answering(), authenticators=[self.tokens], failures=failures)

    async def ask(self, token: str | None, client: str = "192.0.2.1", **more: Any) -> Answer:
        """One request."""
        headers = {} if token is None else {"x-token": token}
        return await call(self.app, headers=headers, client=(client, 1), **more)


async def test_who_sends_too_many_is_refused_before_they_are_looked_at() -> None:
    """429 with the time to wait; then one more is looked at, and no more than that."""
    edge = Edge()
    answers = [await edge.ask("bad") for _ in range(6)]
    assert [answer.status for answer in answers] == [401] * 3 + [429] * 3
    assert edge.tokens.looked_at == 3
    assert (answers[-1].header("retry-after"), answers[-1].json["outcome"]) == ("10", "not_committed")
    edge.clock.advance(10)
    assert [(await edge.ask("bad")).status for _ in range(2)] == [401, 429]
    edge.clock.advance(1000)
    assert [(await edge.ask("bad")).status for _ in range(4)] == [401, 401, 401, 429]


async def test_others_are_not_refused() -> None:
    """Another client goes on, and so does one that fails less often; all of an IPv6 network are one client."""
    edge = Edge()
    for _ in range(4):
        await edge.ask("bad", "2001:db8::1")
    assert (await edge.ask("good", "2001:db8::2")).status == 429
    assert (await edge.ask("good", "2001:db8:0:1::2")).status == 200
    for _ in range(9):
        assert (await edge.ask("bad", "192.0.2.7")).status == 401
        edge.clock.advance(10)


async def test_what_holds_or_is_missing_is_not_counted() -> None:
    """Nobody waits for having shown nothing, or something good."""
    edge = Edge()
    assert {(await edge.ask("good")).status for _ in range(9)} == {200}
    assert {(await edge.ask(None)).status for _ in range(9)} == {401}
    assert (await edge.ask("good")).status == 200


async def test_many_clients_take_no_more_memory() -> None:
    """The table ends where it is told to, and forgets who has waited longest."""
    edge = Edge(clients_max=2)
    failures = edge.app._failures
    assert failures is not None
    for number in range(5):
        for _ in range(3):
            await edge.ask("bad", f"192.0.2.{number}")
    assert len(failures._waiting_ns) <= 2
    assert len(failures._table) <= 2


async def test_a_websocket_is_refused_as_well() -> None:
    """Before it is accepted."""
    edge = Edge()
    for _ in range(3):
        await edge.ask("bad")
    answer = await edge.ask("good", type="websocket")
    assert answer.messages == [{"type": "websocket.close", "code": 1008}]


@pytest.mark.parametrize(
    ("settings", "last"), [({}, 401), ({"failed_proofs_per_s": 0.1, "failed_proofs_burst": 2}, 429)]
)
async def test_install_has_a_setting_for_it(settings: dict[str, Any], last: int) -> None:
    """Off by default."""
    app, tokens = FastAPI(), Tokens()
    install(app, None, EdgeSettings(**settings), authenticator=tokens, drain=Drain())
    answers = [await call(app, headers={"x-token": "bad"}) for _ in range(3)]
    assert [answer.status for answer in answers] == [401, 401, last]
