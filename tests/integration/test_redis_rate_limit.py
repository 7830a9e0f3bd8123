"""Rate limits counted in a real Redis: exact over all processes, and held by each one's share while Redis is away."""

from __future__ import annotations

import asyncio
import logging
import random
import shutil
from collections.abc import AsyncIterator, Callable, Iterator
from typing import Any

import pytest
import redis as redis_py
from redis.asyncio import Redis
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff

from holdfast.asgi.quotas import Decision, Quota
from holdfast.asgi.rate_limit import RateLimit
from holdfast.clock import SYSTEM_CLOCK
from holdfast.drills.servers.process import Server, account_or_caller, temporary_folder
from holdfast.errors import ConfigurationError
from holdfast.events import BreakerChanged, LocalShareApplied
from holdfast.ext.redis import RedisQuotas, redis_health
from holdfast.health import Finding, Health, HealthState
from holdfast.testing import RecordingHook
from tests.asgi.asgi_calls import answering, call

PATIENT_S = 20.0
"""A time limit that only a Redis that is away exceeds: where a test is about numbers, a slow machine must not change them."""


class RedisServer(Server):
    """A Redis without persistence, on loopback, in a folder of its own."""

    flavour = "redis"
    scheme = "redis"

    def _command(self) -> list[str]:
        program = shutil.which("redis-server")
        assert program is not None
        settings = {"bind": self.host, "port": self.port, "save": "", "appendonly": "no", "dir": self.folder}
        return [program, *(word for name, value in settings.items() for word in (f"--{name}", str(value)))]

    def connect(self, *, admin: bool = False, database: str | None = None) -> Any:
        """A synchronous client that has been answered."""
        client = redis_py.Redis(host=self.host, port=self.port, socket_timeout=5)
        client.ping()
        return client

    def set_global(self, name: str, value: object) -> None:
        """CONFIG SET."""
        self.connect().config_set(name, str(value))

    def get_global(self, name: str) -> object:
        """CONFIG GET."""
        return self.connect().config_get(name)[name]


@pytest.fixture(scope="module")
def running() -> Iterator[RedisServer]:
    """One server for the module."""
    if shutil.which("redis-server") is None:
        pytest.skip("Redis is not installed: apt-get install redis-server")
    account = account_or_caller("redis")
    server = RedisServer(temporary_folder("redis", account), account)
    try:
        server.start()
        yield server
    finally:
        server.close()


@pytest.fixture
def server(running: RedisServer) -> Iterator[RedisServer]:
    """The server, empty at the beginning of each test and whole at its end."""
    running.connect().flushall()
    yield running
    running.heal()


Connect = Callable[[], Redis]


@pytest.fixture
async def connect(server: RedisServer) -> AsyncIterator[Connect]:
    """Makes clients, each with a pool of its own as another process would have."""
    clients: list[Redis] = []

    def client() -> Redis:
        clients.append(Redis(host=server.host, port=server.port, retry=Retry(NoBackoff(), 0)))
        return clients[-1]

    yield client
    for one in clients:
        await one.aclose()


# ---------------------------------------------------------------------------------------------------------------- numbers


async def test_exact_over_several_clients_at_once(connect: Connect) -> None:
    """Burst 5 at 10 a second, three processes that press with all they have for two seconds: never more, and hardly less."""
    quota = Quota("client", rate=10, burst=5)
    stores = [RedisQuotas(connect(), replicas=3, timeout=PATIENT_S) for _ in range(3)]
    observer = connect()

    async def redis_now_s() -> float:
        seconds, micros = await observer.time()
        return float(seconds) + float(micros) / 1e6

    allowed = 0
    began_s = await redis_now_s()
    stop = False

    async def press(store: RedisQuotas) -> None:
        nonlocal allowed
        while not stop:
            if (await store.take(quota, "somebody")).allowed:
                allowed += 1

    tasks = [asyncio.create_task(press(store)) for store in stores for _ in range(4)]
    await asyncio.sleep(2)
    stop = True
    await asyncio.gather(*tasks)
    elapsed_s = await redis_now_s() - began_s
    assert allowed <= 5 + 10 * elapsed_s
    assert allowed >= 12  # half of five and ten a second in two seconds, should the machine stand still for a while


async def test_a_burst_of_two_thousand_tasks_is_exact(connect: Connect) -> None:
    """From two processes at the same time: exactly the burst gets through, each with another number left."""
    quota = Quota("client", rate=1, per=3600, burst=100)
    stores = [RedisQuotas(connect(), replicas=2, timeout=PATIENT_S) for _ in range(2)]
    taking = asyncio.Semaphore(50)  # a client opens as many connections as it is asked for

    async def take(number: int) -> Decision:
        async with taking:
            return await stores[number % 2].take(quota, "somebody")

    decisions = await asyncio.gather(*(take(number) for number in range(2000)))
    assert sorted(decision.remaining for decision in decisions if decision.allowed) == list(range(100))


async def test_what_redis_says_is_what_this_process_would_say(connect: Connect) -> None:
    """What is left, when to come again and when all is back, in the same numbers; subjects and quotas are apart."""
    store = RedisQuotas(connect(), replicas=2, timeout=PATIENT_S)
    quota = Quota("client", rate=2, per=3600, burst=2)
    first, second, third = [await store.take(quota, "a") for _ in range(3)]
    assert (first.allowed, first.remaining, round(first.full_after_s)) == (True, 1, 1800)
    assert (second.allowed, second.remaining, round(second.full_after_s, -2)) == (True, 0, 3600)
    assert (third.allowed, third.remaining) == (False, 0)
    assert 1790 < third.retry_after_s <= 1800
    assert (await store.take(quota, "b")).remaining == 1
    assert (await store.take(Quota("other", rate=2, per=3600, burst=2), "a")).remaining == 1


async def test_keys_expire_and_name_nobody(server: RedisServer, connect: Connect) -> None:
    """One key a subject, gone when its burst is whole again; what it is called and holds says nothing of who it is."""
    store = RedisQuotas(connect(), replicas=1, timeout=PATIENT_S)
    await store.take(Quota("slow", rate=1, per=3600), "t:acme-secret")
    await store.take(Quota("quick", rate=1000, burst=2), "t:\ud800acme-secret\r\n")
    client = server.connect()
    keys = client.keys("*")
    assert len(keys) in {1, 2}
    (slow,) = [key for key in keys if b"slow" in key]
    assert slow.startswith(b"holdfast:quota:slow:")
    assert b"acme" not in b"".join(keys) + client.get(slow)
    assert 3_590_000 < client.pttl(slow) <= 3_600_001
    async with asyncio.timeout(PATIENT_S):
        while len(client.keys("*")) > 1:  # noqa: ASYNC110 - Redis tells nobody
            await asyncio.sleep(0.02)


async def test_a_quota_that_was_made_smaller_shuts_nobody_out(server: RedisServer, connect: Connect) -> None:
    """Whoever is far ahead by the old numbers waits no longer than the new ones ask."""
    store = RedisQuotas(connect(), replicas=1, timeout=PATIENT_S)
    for _ in range(10):
        await store.take(Quota("client", rate=1, per=3600, burst=10), "a")
    decision = await store.take(Quota("client", rate=1, per=10, burst=2), "a")
    assert not decision.allowed
    assert decision.retry_after_s <= 10


async def test_cancelled_requests_leave_no_answer_to_others(connect: Connect, rng: random.Random) -> None:
    """One in five is cancelled anywhere on its way: nobody gets what another's quota said."""
    store = RedisQuotas(connect(), replicas=1, timeout=PATIENT_S)
    quick, slow = Quota("quick", rate=1, burst=1000), Quota("slow", rate=1, per=10_000, burst=1000)

    async def take(quota: Quota) -> None:
        decision = await store.take(quota, "a")
        ahead_s = decision.full_after_s / (quota.interval_ns / 1e9)
        # Both allow a thousand, and how far ahead they are is some of their own intervals, never of the other's.
        assert decision.allowed
        assert abs(1000 - decision.remaining - ahead_s) < 1

    for _ in range(40):
        tasks = [asyncio.create_task(take(quota)) for quota in (quick, slow) * 5]
        for _ in range(rng.randrange(12)):
            await asyncio.sleep(0)
        for task in rng.sample(tasks, 2):
            task.cancel()
        results = await asyncio.gather(*tasks, return_exceptions=True)
        assert [error for error in results if error and not isinstance(error, asyncio.CancelledError)] == []
    assert store.is_shared


async def test_the_scripts_memory_is_redis_and_may_be_lost(server: RedisServer, connect: Connect) -> None:
    """After SCRIPT FLUSH it is loaded again."""
    store = RedisQuotas(connect(), replicas=1, timeout=PATIENT_S)
    quota = Quota("client", rate=1, per=3600, burst=5)
    await store.take(quota, "a")
    server.connect().script_flush()
    assert (await store.take(quota, "a")).remaining == 3
    assert store.is_shared


# ------------------------------------------------------------------------------------------------------------ Redis away


async def test_killed_under_load_the_share_holds_and_it_comes_back(
    server: RedisServer, connect: Connect, caplog: pytest.LogCaptureFixture
) -> None:
    """Its share of the quota from the moment of kill -9, told each time; and a new Redis is used again by itself."""
    caplog.set_level(logging.INFO, logger="holdfast")
    hook = RecordingHook()
    quota = Quota("client", rate=30, per=3600, burst=30)
    store = RedisQuotas(connect(), replicas=3, timeout=2, events=hook.stream)
    limited = RateLimit(answering(), quotas=[quota], store=store)
    answers = [(await call(limited)).status for _ in range(10)]
    assert answers == [200] * 10
    assert hook.events == []

    loop = asyncio.get_running_loop()
    kill = loop.run_in_executor(None, server.kill)
    while not hook.of(LocalShareApplied):
        assert (await call(limited, client=("192.0.2.99", 1))).status in {200, 429}
    await kill
    away = [(await call(limited)).status for _ in range(40)]
    assert away.count(200) == 10  # its share of thirty
    async with asyncio.timeout(60):
        # It opens when half of what its window holds has failed, and what Redis answered before counts too.
        while "breaker-open" not in {event.reason for event in hook.of(LocalShareApplied)}:
            await call(limited)
    assert {event.name for event in hook.of(LocalShareApplied)} == {"redis-quotas"}
    assert {event.reason for event in hook.of(LocalShareApplied)} == {"failed", "breaker-open"}
    assert len(hook.of(LocalShareApplied)) >= 40
    assert store.shares_applied == len(hook.of(LocalShareApplied))
    assert not store.is_shared

    await loop.run_in_executor(None, server.start)
    hook.clear()
    async with asyncio.timeout(60):
        while not store.is_shared:
            await call(limited, client=("192.0.2.98", 1))
            await asyncio.sleep(0.05)
    assert [event.new for event in hook.of(BreakerChanged)][-1] == "closed"
    hook.clear()
    answer = await call(limited, client=("192.0.2.97", 1))
    assert answer.header("ratelimit") == '"client";r=29;t=120'
    assert hook.of(LocalShareApplied) == []
    said = [record.getMessage() for record in caplog.records if "redis-quotas" in record.getMessage()]
    assert len([line for line in said if "applies its share" in line]) == 1
    assert len([line for line in said if "answers again" in line]) == 1


async def test_a_redis_that_hangs_costs_a_request_no_more_than_the_timeout(
    server: RedisServer, connect: Connect
) -> None:
    """Frozen: the first requests wait 50 ms each, the others not at all; and everybody has an answer."""
    hook = RecordingHook()
    client = Redis(host=server.host, port=server.port)  # also where the client itself would try for seconds
    store = RedisQuotas(client, replicas=2, events=hook.stream)
    quota = Quota("client", rate=2, per=3600, burst=100)
    server.pause()
    began_s = SYSTEM_CLOCK.monotonic()
    decisions = [await store.take(quota, "a") for _ in range(300)]
    elapsed_s = SYSTEM_CLOCK.monotonic() - began_s
    assert sum(decision.allowed for decision in decisions) == 50
    reasons = [event.reason for event in hook.of(LocalShareApplied)]
    assert len(reasons) == 300
    # Five to open it; half a second later, should the machine be that slow, one to see if it is back.
    assert reasons[:5] == ["timeout"] * 5
    assert reasons.count("timeout") <= 5 + elapsed_s / 0.5
    server.resume()
    await client.aclose()


async def test_an_error_of_redis_is_not_the_callers(server: RedisServer, connect: Connect) -> None:
    """A Redis that refuses writes (full, read-only): the share applies, and nothing is raised."""
    hook = RecordingHook()
    store = RedisQuotas(connect(), replicas=2, timeout=PATIENT_S, events=hook.stream)
    server.set_global("min-replicas-to-write", 1)
    try:
        decisions = [await store.take(Quota("client", rate=2, per=3600, burst=4), "a") for _ in range(4)]
    finally:
        server.set_global("min-replicas-to-write", 0)
    assert [decision.allowed for decision in decisions] == [True, True, False, False]
    assert {event.reason for event in hook.of(LocalShareApplied)} == {"failed"}


async def test_health_says_whether_redis_answers(server: RedisServer, connect: Connect) -> None:
    """Away it degrades, since the limits go on; where it is called critical the process is not ready."""
    client = connect()
    loose, strict = Health([redis_health(client, timeout=5)]), Health([redis_health(client, critical=True, timeout=5)])
    assert (await loose.report()).state is (await strict.report()).state is HealthState.READY
    server.kill()
    loose, strict = Health([redis_health(client, timeout=5)]), Health([redis_health(client, critical=True, timeout=5)])
    report = await loose.report()
    assert report.state is HealthState.DEGRADED
    assert [(check.name, check.finding) for check in report.checks] == [("redis", Finding.FAILED)]
    assert str(server.port) not in str(report.document())
    assert (await strict.report()).state is HealthState.NOT_READY


@pytest.mark.parametrize(
    "settings", [{"replicas": 0}, {"replicas": 1, "timeout": 0}, {"replicas": 1, "subjects_max": 0}]
)
def test_planted_settings_are_refused(settings: dict[str, Any]) -> None:
    """Outside of their bounds, where they are given."""
    with pytest.raises(ConfigurationError):
        RedisQuotas(Redis(), **settings)
