"""Risk: metrics and memory that grow with the number of callers (CVE-2022-21698 and its kin), here of limiters."""

from __future__ import annotations

import asyncio

from holdfast.asgi.admission import ConcurrencyLimit
from holdfast.asgi.context import context_of
from holdfast.asgi.interface import Receive, Scope, Send
from holdfast.asgi.quotas import LocalQuotas, Quota
from holdfast.asgi.rate_limit import RateLimit
from holdfast.asgi.subjects import by_principal, by_tenant
from holdfast.events import CallRejected, CallShed
from holdfast.testing import ManualClock, RecordingHook
from tests.asgi.asgi_calls import Connection, answering, call, http_scope, until


async def test_fifty_thousand_subjects_cost_bounded_memory_and_no_labels() -> None:
    """The table stays at its size, long names are not kept long, and events hold the quota's name alone."""
    clock, hook = ManualClock(), RecordingHook()
    store = LocalQuotas(subjects_max=1000, clock=clock)
    quota = Quota("client", rate=1, per=3600, burst=2)
    limited = RateLimit(answering(), quotas=[quota], store=store, clock=clock, events=hook.stream)
    for number in range(50_000):
        store.take_now(quota, f"c:{number}")
    assert len(store) == 1000
    for number in range(3000):
        await call(limited, client=(f"2001:db8:{number:x}::1", 1))
    assert len(store) == 1000
    assert hook.of(CallRejected)
    assert {(event.name, event.policy) for event in hook.of(CallRejected)} == {("client", "ratelimit")}


def test_a_long_name_is_not_kept() -> None:
    """A tenant or principal of a megabyte costs as much as a short one, and two of them are still two."""
    names = ["a" * 1_000_000 + end for end in "xy"]
    for subject_of in (by_tenant, by_principal):
        subjects = set()
        for name in names:
            scope = http_scope()
            context = context_of(scope)
            context.tenant = context.principal = name
            subjects.add(subject_of(scope, context))
        assert len(subjects) == 2
        assert max(map(len, subjects)) < 200


async def test_tenants_are_remembered_while_they_are_in_and_in_no_event() -> None:
    """Two thousand tenants at a limit of a hundred: a hundred are known, afterwards none."""
    hook, go = RecordingHook(), asyncio.Event()

    async def held(scope: Scope, receive: Receive, send: Send) -> None:
        await go.wait()
        await answering()(scope, receive, send)

    app = ConcurrencyLimit(held, limit=100, queue=0, events=hook.stream)
    tasks = []
    for number in range(2000):
        connection = Connection(http_scope())
        context_of(connection.scope).tenant = f"tenant-{number}"
        tasks.append(connection.start(app))
    await until(lambda: len(hook.of(CallShed)) == 1900)
    assert app.gate.tenants == app.gate.in_flight == 100
    go.set()
    await asyncio.gather(*tasks)
    assert app.gate.tenants == 0
    assert "tenant-" not in repr(hook.events)
    assert {event.name for event in hook.events} == {"requests"}
