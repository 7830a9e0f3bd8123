"""Nobody comes more often than allowed, everybody is told where they stand, and no number of callers costs more memory."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Sequence
from functools import partial
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from holdfast.asgi.admission import ConcurrencyLimit
from holdfast.asgi.context import RequestContext, context_of
from holdfast.asgi.interface import Receive, Scope, Send
from holdfast.asgi.quotas import ArrivalTable, Decision, LocalQuotas, Quota
from holdfast.asgi.rate_limit import RateLimit
from holdfast.asgi.subjects import by_client, by_principal, by_route, by_tenant
from holdfast.errors import ConfigurationError
from holdfast.events import CallRejected
from holdfast.testing import ManualClock, RecordingHook
from tests.asgi.asgi_calls import Connection, Echo, answering, call, http_scope

S = 1_000_000_000
TEN = Quota("client", rate=10, burst=5)


# --------------------------------------------------------------------------------------------------------- the arithmetic


def test_a_burst_and_then_the_rate() -> None:
    """Five at once, the sixth has to wait a tenth of a second, and is told so."""
    table = ArrivalTable(100)
    taken = [table.take(TEN, "a", S) for _ in range(6)]
    assert [decision.allowed for decision in taken] == [True] * 5 + [False]
    assert [decision.remaining for decision in taken] == [4, 3, 2, 1, 0, 0]
    assert [decision.full_after_s for decision in taken] == [0.1, 0.2, 0.3, 0.4, 0.5, 0.5]
    assert taken[5].retry_after_s == pytest.approx(0.1)
    assert table.take(TEN, "b", S) == Decision(True, 4, 0.0, 0.1)
    assert not table.take(TEN, "a", S + S // 10 - 1).allowed
    assert table.take(TEN, "a", S + S // 10).allowed
    assert table.take(TEN, "a", 100 * S).remaining == 4


QUOTAS = st.builds(
    Quota,
    st.just("q"),
    rate=st.floats(0.01, 10_000),
    per=st.sampled_from([1.0, 60.0, 3600.0]),
    burst=st.integers(1, 20),
)
COMINGS = st.lists(st.tuples(st.integers(0, 3 * S), st.integers(0, 6)), min_size=1, max_size=150)
"""How long after the one before, and who."""


def most_within_the_bound(allowed_ns: Sequence[int], quota: Quota) -> bool:
    """Whether in each interval between two of these moments no more than burst + rate * t were let through."""
    return all(
        count <= quota.burst + (last - first) / quota.interval_ns
        for start, first in enumerate(allowed_ns)
        for count, last in enumerate(allowed_ns[start:], start=1)
    )


@given(quota=QUOTAS, comings=COMINGS, subjects_max=st.integers(1, 8))
def test_never_more_than_burst_and_rate(quota: Quota, comings: list[tuple[int, int]], subjects_max: int) -> None:
    """For each subject and in every interval, however many others came and however small the table is."""
    table = ArrivalTable(subjects_max)
    allowed: dict[str, list[int]] = {}
    now_ns = 0
    for after_ns, who in comings:
        now_ns += after_ns
        if table.take(quota, str(who), now_ns).allowed:
            allowed.setdefault(str(who), []).append(now_ns)
        assert len(table) <= subjects_max
        assert len(table._heap) == len(table)
    for moments in allowed.values():
        assert most_within_the_bound(moments, quota)


@given(quota=QUOTAS, comings=COMINGS)
def test_who_has_room_is_let_through(quota: Quota, comings: list[tuple[int, int]]) -> None:
    """What `retry_after_s` and `remaining` say is true: not sooner, and then for certain; and so many at once."""
    table = ArrivalTable(100)
    now_ns = 0
    for after_ns, who in comings:
        now_ns += after_ns
        decision = table.take(quota, str(who), now_ns)
        if not decision.allowed:
            assert decision.remaining == 0
            wait_ns = round(decision.retry_after_s * S)
            assert not table.take(quota, str(who), now_ns + wait_ns - 1000).allowed
            now_ns += wait_ns + 1000
            decision = table.take(quota, str(who), now_ns)
            assert decision.allowed
        for _ in range(decision.remaining):
            assert table.take(quota, str(who), now_ns).allowed
        assert not table.take(quota, str(who), now_ns).allowed


def test_planted_table_that_forgets_is_seen() -> None:
    """The check of the bound fails for a table whose newcomers always begin anew."""

    class Forgetful(ArrivalTable):
        def _forget_one(self) -> None:
            super()._forget_one()
            self._floor_ns = 0

    table = Forgetful(1)
    taken = [(who, table.take(TEN, who, S).allowed) for who in ("a", "b") * 30]
    allowed = [S for who, was_allowed in taken if was_allowed and who == "a"]
    assert not most_within_the_bound(allowed, TEN)


def test_newcomers_to_a_full_table_take_the_place_of_the_quiet() -> None:
    """Who used much stays counted, and a newcomer loses nothing as long as somebody's time has passed."""
    table = ArrivalTable(3)
    for _ in range(5):
        table.take(TEN, "busy", S)
    table.take(TEN, "quiet", S)
    table.take(TEN, "other", S + S // 10)
    assert table.take(TEN, "new", S + 3 * S // 10).remaining == 4
    assert "quiet" not in table._arrivals_ns
    assert table.take(TEN, "busy", S + 3 * S // 10).remaining == 2


async def test_exact_under_ten_thousand_tasks() -> None:
    """A burst of 100 and no time passing: exactly 100 of 10,000 tasks get through, for each of two subjects."""
    app = Echo()
    limited = RateLimit(app, quotas=[Quota("client", rate=1, burst=100)], clock=ManualClock())
    clients = [("192.0.2.1", 1), ("192.0.2.2", 1)]
    answers = await asyncio.gather(*(call(limited, client=clients[number % 2]) for number in range(10_000)))
    assert [answer.status for answer in answers].count(200) == 200 == app.calls
    for which in (0, 1):
        remaining = [int(re.findall(r";r=(\d+)", answer.header("ratelimit") or "")[0]) for answer in answers[which::2]]
        assert sorted(remaining, reverse=True)[:100] == list(range(99, -1, -1))


@pytest.mark.parametrize(
    "settings",
    [
        {"rate": 0},
        {"rate": -1},
        {"rate": float("inf")},
        {"rate": float("nan")},
        {"rate": 1_000_001},
        {"rate": 1, "per": 0},
        {"rate": 1, "per": 86_400, "burst": 400},
        {"rate": 1, "burst": 0},
        {"rate": 1, "burst": 1.5},
        {"rate": 1, "name": ""},
        {"rate": 1, "name": "a b"},
        {"rate": 1, "name": 'a"'},
        {"rate": 1, "name": "a\r\nx: y"},
        {"rate": 1, "name": "é"},
        {"rate": 1, "name": "a" * 41},
    ],
)
def test_planted_quotas_are_refused(settings: dict[str, Any]) -> None:
    """Outside of their bounds, where they are given."""
    with pytest.raises(ConfigurationError):
        Quota(**{"name": "q", **settings})


def test_planted_layers_are_refused() -> None:
    """Without quotas, with two of one name, or a table of nothing."""
    with pytest.raises(ConfigurationError):
        RateLimit(answering(), quotas=[])
    with pytest.raises(ConfigurationError):
        RateLimit(answering(), quotas=[Quota("a", rate=1), Quota("a", rate=2)])
    with pytest.raises(ConfigurationError):
        LocalQuotas(subjects_max=0)


@given(quota=QUOTAS, parts=st.integers(1, 50))
def test_shares_are_no_more_than_the_whole(quota: Quota, parts: int) -> None:
    """All processes together come no more often than one that counts for all, but for a burst of one each."""
    share = quota.share(parts)
    assert share.interval_ns >= quota.interval_ns * parts - parts * 1000
    assert share.burst == max(1, quota.burst // parts)


# -------------------------------------------------------------------------------------------------------------- the layer


async def test_every_answer_says_where_its_caller_stands() -> None:
    """The policy and what is left of it, also on the refusal; the application's own headers stay."""
    app = answering(headers=[(b"x-kept", b"1")])
    limited = RateLimit(app, quotas=[Quota("client", rate=10, per=60, burst=2)], clock=ManualClock())
    first, second, third = [await call(limited) for _ in range(3)]
    assert {answer.header("ratelimit-policy") for answer in (first, second, third)} == {'"client";q=2;w=12'}
    assert [answer.header("ratelimit") for answer in (first, second, third)] == [
        '"client";r=1;t=6',
        '"client";r=0;t=12',
        '"client";r=0;t=12',
    ]
    assert (first.header("x-kept"), first.status, second.status) == ("1", 200, 200)
    assert third.status == 429
    assert third.header("retry-after") == "6"
    assert third.json["violated-policies"] == ["client"]
    assert third.json["outcome"] == "not_committed"


async def test_a_refused_body_is_not_read_and_time_lets_in_again() -> None:
    """429 comes first; after `Retry-After` the same request passes."""
    clock, app = ManualClock(), Echo()
    limited = RateLimit(app, quotas=[Quota("client", rate=1, per=30)], clock=clock)
    await call(limited)
    refused = Connection(http_scope("POST"))
    refused.push(b"body")
    refused.start(limited)
    answer = await refused.answer()
    assert (answer.status, refused.received, app.calls) == (429, 0, 1)
    clock.advance(int(answer.header("retry-after") or 0))
    assert (await call(limited)).status == 200


async def test_the_first_refusal_ends_it_and_the_wider_quota_loses_nothing() -> None:
    """A client that floods uses up what is its own, and not what is its tenant's."""
    clock, hook = ManualClock(), RecordingHook()
    quotas = [Quota("client", rate=1, burst=2), Quota("tenant", rate=1, burst=5, subject=lambda *_: "t")]
    limited = RateLimit(answering(), quotas=quotas, clock=clock, events=hook.stream)
    answers = [await call(limited) for _ in range(10)]
    assert [answer.status for answer in answers] == [200, 200] + [429] * 8
    assert answers[0].header("ratelimit") == '"client";r=1;t=1, "tenant";r=4;t=1'
    assert answers[0].header("ratelimit-policy") == '"client";q=2;w=2, "tenant";q=5;w=5'
    assert answers[2].header("ratelimit") == '"client";r=0;t=2'
    assert [(event.name, event.policy) for event in hook.of(CallRejected)] == [("client", "ratelimit")] * 8
    others = [await call(limited, client=(f"192.0.2.{number}", 1)) for number in range(10, 14)]
    assert [answer.status for answer in others] == [200, 200, 200, 429]
    assert others[3].json["violated-policies"] == ["tenant"]


async def test_what_is_not_counted_passes() -> None:
    """Exempt paths, requests without a subject, websockets and the lifespan; and they get no fields."""
    seen: list[str] = []

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        seen.append(scope["type"])
        if scope["type"] == "http":
            await answering()(scope, receive, send)

    quota = Quota("login", rate=1, per=60, subject=by_route("/login", each=by_client))
    limited = RateLimit(app, quotas=[quota, Quota("none", rate=1, subject=lambda *_: None)], exempt=["/livez"])
    for _ in range(3):
        for path in ("/livez", "/orders"):
            answer = await call(limited, path=path)
            assert (answer.status, answer.header("ratelimit")) == (200, None)
    for kind in ("websocket", "lifespan"):
        await limited({"type": kind, "path": "/login"}, Connection({}).receive, Connection({}).send)
    assert seen == ["http"] * 6 + ["websocket", "lifespan"]
    first, second = await call(limited, path="/login"), await call(limited, path="/login")
    assert (first.status, second.status) == (200, 429)
    assert first.header("ratelimit-policy") == '"login";q=1;w=60'
    assert (await call(limited, path="/login", client=("192.0.2.2", 1))).status == 200


async def test_an_error_of_the_application_is_not_swallowed() -> None:
    """It passes through as it is."""

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        raise ValueError

    answer = await call(RateLimit(app, quotas=[TEN]))
    assert isinstance(answer.error, ValueError)


# ------------------------------------------------------------------------------------------------------------ whose it is


def of(client: str | None, **known: Any) -> tuple[Scope, RequestContext]:
    """A scope and what the layers outside found out."""
    scope = http_scope(client=None if client is None else (client, 1))
    context = context_of(scope)
    for name, value in known.items():
        setattr(context, name, value)
    return scope, context


def test_clients() -> None:
    """An IPv4 address each, an IPv6 /64 together, mapped addresses as what they are, and what the proxies' layer said counts."""
    assert by_client(*of("192.0.2.1")) != by_client(*of("192.0.2.2"))
    assert by_client(*of("2001:db8::1")) == by_client(*of("2001:db8:0:0:ffff::2"))
    assert by_client(*of("2001:db8:0:1::1")) != by_client(*of("2001:db8::1"))
    assert by_client(*of("::ffff:192.0.2.1")) == by_client(*of("192.0.2.1"))
    assert by_client(*of("fe80::1%eth0")) == by_client(*of("fe80::2%eth1"))
    assert by_client(*of("192.0.2.1", client_address="198.51.100.7")) == by_client(*of("198.51.100.7"))
    assert by_client(*of(None)) == by_client(*of(None))
    assert by_client(*of(":" * 100_000)) == by_client(*of("1:2:nonsense"))
    assert len(by_client(*of("x" * 100_000))) < 100


def test_tenants_and_principals_fall_back_to_the_client() -> None:
    """Nobody proven: each address for itself, never all together; and a name that looks like an address is none."""
    assert by_tenant(*of("192.0.2.1", tenant="a")) == by_tenant(*of("192.0.2.2", tenant="a"))
    assert by_tenant(*of("192.0.2.1")) == by_client(*of("192.0.2.1")) != by_tenant(*of("192.0.2.2"))
    assert by_tenant(*of("192.0.2.1", tenant="c:192.0.2.1")) != by_client(*of("192.0.2.1"))
    assert by_principal(*of("192.0.2.1")) == by_client(*of("192.0.2.1"))


@given(st.text(max_size=8), st.text(max_size=8), st.text(max_size=8), st.text(max_size=8))
def test_principals_of_two_tenants_are_never_one(tenant: str, principal: str, other: str, another: str) -> None:
    """Whatever they are called."""
    same = by_principal(*of(None, tenant=tenant, principal=principal)) == by_principal(
        *of(None, tenant=other, principal=another)
    )
    assert same == ((tenant, principal) == (other, another))


def test_routes_are_counted_however_they_are_spelled() -> None:
    """Another spelling of a path that is limited is no way around, also below a root path; other paths are not counted."""
    subject = by_route("/login", "/users/{id}/export", "/files/*")

    def of_path(path: str, **more: Any) -> str | None:
        scope = http_scope(path=path, **more)
        return subject(scope, context_of(scope))

    logins = {of_path(path) for path in ("/login", "/Login", "//login", "/login/", "/./login", "/x/../login")}
    assert logins == {of_path("/api/login", root_path="/api")} == {"r:/login"}
    assert of_path("/users/1/export") == of_path("/users/2/export") == "r:/users/{id}/export"
    assert of_path("/files") == of_path("/files/a/b") == "r:/files/*"
    assert of_path("/" * 100_000) == of_path("/a" * 100_000) == "r:/login"  # too long to read: counted
    for path in ("/", "", "/users/1", "/logins", "/api/login"):
        assert of_path(path) is None
    for patterns in ([], ["login"]):
        with pytest.raises(ConfigurationError):
            by_route(*patterns)


async def test_a_route_as_a_whole() -> None:
    """Without `each` all callers of a route share its quota, and the parameters make no difference."""
    limited = RateLimit(answering(), quotas=[Quota("export", rate=1, per=60, subject=by_route("/export/{id}"))])
    assert (await call(limited, path="/export/1")).status == 200
    assert (await call(limited, path="/export/2", client=("192.0.2.9", 1))).status == 429


@pytest.mark.parametrize("layer", [partial(RateLimit, quotas=[Quota("one", rate=1)]), ConcurrencyLimit])
def test_planted_exempt_paths_are_refused(layer: Any) -> None:
    """One text would be taken apart into letters, and `/` would be free for all."""
    for wrong in ("/livez", ["livez"]):
        with pytest.raises(ConfigurationError, match="exempt"):
            layer(answering(), exempt=wrong)


async def test_exempt_paths_are_those_below_the_root_path() -> None:
    """A service behind a prefix names its paths as its routes do."""
    limited = RateLimit(answering(), quotas=[Quota("one", rate=0.001)], exempt=["/livez"])
    statuses = [
        (await call(limited, path=path, root_path="/api")).status for path in ["/api/livez"] * 3 + ["/api/x"] * 2
    ]
    assert statuses == [200, 200, 200, 200, 429]
