"""Health: what takes a process out of the traffic, and what must not."""

from __future__ import annotations

import asyncio
import json
import logging
import threading
from collections.abc import Awaitable, Callable, Iterator

import pytest

from holdfast.deadline import current_deadline, within
from holdfast.errors import ConfigurationError
from holdfast.health import (
    Check,
    Finding,
    Health,
    HealthCheck,
    HealthState,
    Standing,
    disk_space,
    judged,
    state_of,
)
from holdfast.testing import ManualClock

OK, DEGRADED, FAILED, UNKNOWN = Finding.OK, Finding.DEGRADED, Finding.FAILED, Finding.UNKNOWN
LETTERS = {"o": OK, "d": DEGRADED, "f": FAILED, "u": UNKNOWN}


@pytest.fixture
def clock() -> ManualClock:
    return ManualClock()


def nothing() -> None:
    """A check that is always good."""


class Scripted:
    """A check that says what it is told, and counts."""

    def __init__(self, *says: object) -> None:
        self.says: Iterator[object] = iter(says)
        self.calls = 0

    async def __call__(self) -> object:
        self.calls += 1
        said = next(self.says)
        if isinstance(said, Exception):
            raise said
        return said


async def turns(true: Callable[[], bool]) -> None:
    """Let other tasks run until something holds."""
    while not true():  # noqa: ASYNC110 - of somebody else's state
        await asyncio.sleep(0)  # noqa: TID251 - a turn for the others, not a wait


# -- the core ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("found", "counts_as"),
    [
        ("f", "f"),
        ("offo", "oooo"),
        ("offf", "ooof"),
        ("offofff", "oooooof"),
        ("offff", "oooff"),
        ("offfo", "oooff"),
        ("offfoo", "oooffo"),
        ("offfofoo", "oooffffo"),
        ("odod", "odod"),
        ("dffo", "dddo"),
        ("offfdd", "oooffd"),
        ("fo", "ff"),
        ("foo", "ffo"),
    ],
)
def test_a_hiccup_changes_nothing(found: str, counts_as: str) -> None:
    """Three failures in a row fail, two successes in a row recover; the first finding counts at once."""
    check = HealthCheck("x", nothing, fails_after=3, recovers_after=2)
    standing = Standing()
    seen = []
    for number, letter in enumerate(found):
        standing = judged(standing, LETTERS[letter], check, now=float(number))
        seen.append(standing.finding)
    assert seen == [LETTERS[letter] for letter in counts_as]


def test_since_says_when_it_changed() -> None:
    """The age of a state is not the age of the last look."""
    check = HealthCheck("x", nothing, fails_after=2)
    standing = judged(Standing(), OK, check, now=1)
    standing = judged(standing, OK, check, now=2)
    assert (standing.since, standing.asked_at) == (1, 2)
    standing = judged(standing, FAILED, check, now=3)
    assert (standing.finding, standing.since) == (OK, 1)
    standing = judged(standing, FAILED, check, now=4)
    assert (standing.finding, standing.since) == (FAILED, 4)


@pytest.mark.parametrize(
    ("critical", "fail_open", "was_good", "finding", "state"),
    [
        (True, False, True, OK, HealthState.READY),
        (True, False, True, DEGRADED, HealthState.DEGRADED),
        (True, False, True, FAILED, HealthState.NOT_READY),
        (True, False, False, UNKNOWN, HealthState.NOT_READY),
        (True, True, True, FAILED, HealthState.DEGRADED),
        (True, True, False, FAILED, HealthState.NOT_READY),
        (True, True, False, UNKNOWN, HealthState.NOT_READY),
        (False, False, False, UNKNOWN, HealthState.DEGRADED),
        (False, False, True, FAILED, HealthState.DEGRADED),
    ],
)
def test_what_takes_out_of_the_traffic(
    critical: bool, fail_open: bool, was_good: bool, finding: Finding, state: HealthState
) -> None:
    """Only a critical failure does, and a shared dependency only before it was ever there."""
    check = HealthCheck("x", nothing, critical=critical, fail_open=fail_open)
    good = (HealthCheck("good", nothing), Standing(OK, was_good=True))
    assert state_of([good, (check, Standing(finding, was_good=was_good)), good]) is state


def test_neither_starting_nor_draining_is_ready() -> None:
    """Good checks do not help a process that has not come up or is about to go."""
    assert state_of([]) is HealthState.READY
    assert state_of([], started=False) is HealthState.NOT_READY
    assert state_of([], draining=True) is HealthState.NOT_READY


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"name": ""}, "printable name"),
        ({"name": "x" * 65}, "printable name"),
        ({"name": "a\nb"}, "printable name"),
        ({"timeout": 0}, "timeout"),
        ({"cache_for": -1}, "cache_for"),
        ({"fails_after": 0}, "1 or more"),
        ({"recovers_after": 0}, "1 or more"),
    ],
)
def test_settings_that_cannot_work_are_refused(settings: dict[str, object], message: str) -> None:
    """A wrong check fails where it is made."""
    with pytest.raises(ConfigurationError, match=message):
        HealthCheck(**{"name": "x", "check": nothing, **settings})  # type: ignore[arg-type]


# -- the shell ---------------------------------------------------------------------------------------------------------


async def test_checks_of_every_kind(clock: ManualClock) -> None:
    """Functions run in a thread, coroutine functions in the loop; None and True are good, False and errors are not."""
    threads: list[int] = []

    def sync() -> None:
        threads.append(threading.get_ident())

    health = Health(
        [
            HealthCheck("sync", sync),
            HealthCheck("object", Scripted(None)),
            HealthCheck("true", Scripted(True)),
            HealthCheck("false", Scripted(False), critical=False),
            HealthCheck("raises", Scripted(ValueError("secret-dsn")), critical=False),
            HealthCheck("degraded", Scripted(DEGRADED)),
        ],
        clock=clock,
    )
    report = await health.report()
    assert report.state is HealthState.DEGRADED
    assert {check.name: check.finding.value for check in report.checks} == {
        "sync": "ok",
        "object": "ok",
        "true": "ok",
        "false": "failed",
        "raises": "failed",
        "degraded": "degraded",
    }
    assert threads != [threading.get_ident()]


@pytest.mark.parametrize("error", [StopIteration, SystemExit, KeyboardInterrupt, asyncio.CancelledError])
async def test_whatever_a_thread_raises_is_a_failure(clock: ManualClock, error: type[BaseException]) -> None:
    """At once and not after the timeout, and the process goes on; when it is over, the check recovers."""
    errors = [error("x")]

    def check() -> None:
        if errors:
            raise errors.pop()

    health = Health([HealthCheck("x", check, cache_for=0, recovers_after=1)], clock=clock)
    assert [(await health.report()).checks[0].finding for _ in range(2)] == [FAILED, OK]
    assert clock.monotonic() == ManualClock().monotonic()


async def test_nothing_secret_comes_out(clock: ManualClock, caplog: pytest.LogCaptureFixture) -> None:
    """Neither the report nor the log holds what a check's exception says."""
    health = Health([HealthCheck("db", Scripted(ValueError("mysql://app:hunter2@db1/shop")))], clock=clock)
    with caplog.at_level(logging.INFO, logger="holdfast"):
        report = await health.report()
    assert "hunter2" not in json.dumps(report.document())
    assert "hunter2" not in caplog.text
    assert "health: db went from unknown to failed" in caplog.text


async def test_findings_are_kept_for_a_while(clock: ManualClock) -> None:
    """A check is asked again when its finding is too old, not before; its age is told."""
    check = Scripted(None, None)
    health = Health([HealthCheck("x", check, cache_for=2)], clock=clock)
    await health.report()
    clock.advance(1.9)
    report = await health.report()
    assert check.calls == 1
    assert report.checks[0].age_s == pytest.approx(1.9)
    clock.advance(0.1)
    report = await health.report()
    assert check.calls == 2
    assert report.checks[0].age_s == 0


async def test_one_round_serves_all_who_ask(clock: ManualClock) -> None:
    """A hundred askers cause one call, and the first one going away does not end it for the others."""
    release = asyncio.Event()
    calls = 0

    async def slow() -> None:
        nonlocal calls
        calls += 1
        await release.wait()

    health = Health([HealthCheck("x", slow)], clock=clock)
    first = asyncio.create_task(health.report())
    await turns(lambda: calls == 1)
    others = [asyncio.create_task(health.report()) for _ in range(99)]
    first.cancel()
    await asyncio.wait([first])
    release.set()
    reports = await asyncio.gather(*others)
    assert calls == 1
    assert {report.state for report in reports} == {HealthState.READY}


async def test_a_round_has_nobodys_deadline(clock: ManualClock) -> None:
    """It serves all who ask, and the first one may have had next to no time."""
    seen: list[object] = []

    def look() -> None:
        seen.append(current_deadline())

    async def look_async() -> None:
        look()

    health = Health([HealthCheck("thread", look), HealthCheck("coroutine", look_async)], clock=clock)
    with within(0.01, clock=clock):
        assert current_deadline() is not None
        assert (await health.report()).state is HealthState.READY
    assert seen == [None, None]


class AsyncCall:
    """A check that is an object whose call is a coroutine."""

    def __init__(self, check: Callable[[], Awaitable[object]]) -> None:
        self._check = check

    async def __call__(self) -> object:
        return await self._check()


def as_it_is(check: Callable[[], Awaitable[object]]) -> Check:
    return check


def returned(check: Callable[[], Awaitable[object]]) -> Check:
    """A plain function that returns the coroutine, as a lambda does."""

    def call() -> Awaitable[object]:
        return check()

    return call


@pytest.mark.parametrize("stubborn", [False, True])
@pytest.mark.parametrize("as_check", [as_it_is, returned, AsyncCall])
async def test_a_hung_check_costs_its_timeout_and_no_more(
    clock: ManualClock, as_check: Callable[[Callable[[], Awaitable[object]]], Check], stubborn: bool
) -> None:
    """It counts as failed, and is asked anew; one that cannot even be cancelled is not called a second time beside itself."""
    calls = 0
    release = asyncio.Event()

    async def hang() -> None:
        nonlocal calls
        calls += 1
        while True:
            try:
                await release.wait()
                return
            except asyncio.CancelledError:
                if not stubborn:
                    raise

    health = Health([HealthCheck("x", as_check(hang), timeout=0.5, cache_for=0)], clock=clock)
    for number in (1, 2):
        asking = asyncio.create_task(health.report())
        expected = 1 if stubborn else number
        await turns(lambda expected=expected: (clock.waiting, calls) == (1, expected))  # type: ignore[misc]
        clock.advance(0.5)
        report = await asking
        assert report.checks[0].finding is FAILED
    assert calls == (1 if stubborn else 2)
    release.set()
    await turns(lambda: health._entries["x"].running is None)


async def test_a_hung_thread_is_not_joined_by_a_second_one(clock: ManualClock) -> None:
    """A plain function that hangs holds one thread, however often it is asked."""
    release = threading.Event()
    calls = 0

    def hang() -> None:
        nonlocal calls
        calls += 1
        release.wait()

    health = Health([HealthCheck("x", hang, timeout=0.5, cache_for=0)], clock=clock)
    for _ in range(3):
        asking = asyncio.create_task(health.report())
        await turns(lambda: clock.waiting == 1)
        clock.advance(0.5)
        assert (await asking).state is HealthState.NOT_READY
    assert calls == 1
    release.set()
    await turns(lambda: health._entries["x"].running is None)


async def test_draining_asks_nobody(clock: ManualClock) -> None:
    """While draining the answer is known, and the checks are left in peace."""
    check = Scripted()
    health = Health([HealthCheck("x", check)], clock=clock)
    report = await health.report(draining=True)
    assert (report.state, report.draining, check.calls) == (HealthState.NOT_READY, True, 0)


async def test_starting_is_not_ready_and_alive(clock: ManualClock) -> None:
    """Before it has come up a process gets no traffic, and is not restarted either."""
    health = Health([HealthCheck("x", Scripted(None))], started=False, clock=clock)
    report = await health.report()
    assert (report.state, report.alive, report.started) == (HealthState.NOT_READY, True, False)
    health.start()
    assert (await health.report()).state is HealthState.READY


async def test_only_a_report_makes_it_dead(clock: ManualClock, caplog: pytest.LogCaptureFixture) -> None:
    """Failing checks never end the process; what cannot recover by itself says so, once."""
    health = Health([HealthCheck("x", Scripted(False))], clock=clock)
    assert (await health.report()).alive
    health.report_broken("the pool's event loop is gone")
    health.report_broken("again")
    assert not health.is_alive
    assert (await health.report()).state is HealthState.NOT_READY
    assert len([record for record in caplog.records if record.levelno == logging.CRITICAL]) == 1


async def test_the_document_has_one_shape(clock: ManualClock) -> None:
    """Whatever the state, the members are the same: a reader needs one case, and nobody learns from what is missing."""
    health = Health([HealthCheck("x", Scripted(None), critical=False)], clock=clock)
    before = (await health.report(draining=True)).document()
    after = (await health.report()).document()
    assert after == {
        "state": "ready",
        "alive": True,
        "started": True,
        "draining": False,
        "checks": [{"name": "x", "state": "ok", "critical": False, "age_s": 0.0, "since_s": 0.0}],
    }
    assert before.keys() == after.keys()


def test_names_are_unique() -> None:
    """Two checks of one name would hide each other."""
    health = Health([HealthCheck("x", nothing)])
    with pytest.raises(ConfigurationError, match="called x already"):
        health.add(HealthCheck("x", nothing))
    health.remove("x")
    health.remove("x")
    health.add(HealthCheck("x", nothing))


@pytest.mark.parametrize(
    ("free", "state"), [(100, HealthState.READY), (9, HealthState.DEGRADED), (1, HealthState.NOT_READY)]
)
async def test_disk_space(free: int, state: HealthState) -> None:
    """Little space is a warning, none is a failure."""
    check = disk_space("/", usage=lambda _: (100, 100 - free, free))
    assert (await Health([check]).report()).state is state


async def test_disk_space_of_this_machine() -> None:
    """It reads the real thing."""
    check = disk_space("/", low=0, least=0)
    assert (await Health([check]).report()).state is HealthState.READY
    with pytest.raises(ConfigurationError, match="least <= low"):
        disk_space("/", low=0.1, least=0.2)
