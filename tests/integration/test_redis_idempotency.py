"""Idempotency-Keys in Redis: one effect while nothing crashes, bounded damage when something does."""

from __future__ import annotations

import asyncio
import shutil
import signal
import subprocess
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from redis.asyncio import Redis
from redis.exceptions import ConnectionError as BrokenConnection
from redis.exceptions import RedisError

from holdfast.asgi.answers import AnswerCodec, StoredAnswer
from holdfast.asgi.idempotency import Idempotency
from holdfast.asgi.interface import Receive, Scope, Send
from holdfast.asgi.keyed_request import KeyRules
from holdfast.drills.servers.process import END_WITH_PARENT, free_port
from holdfast.effects import note_applied
from holdfast.errors import BlockTimedOut, ConfigurationError, Contended, DeadlineExceeded, OutcomeUnknown
from holdfast.ext.redis.idempotency import RedisIdempotency
from holdfast.testing import ManualClock
from tests.asgi.asgi_calls import Answer, Connection, call, http_scope
from tests.asgi.effect_app import Proven, caller
from tests.asgi.log_capture import log_of


@pytest.fixture
def redis_process(tmp_path: Path) -> Iterator[tuple[subprocess.Popen[bytes], int]]:
    """A Redis server of the test's own, and its port."""
    program = shutil.which("redis-server")
    if program is None:
        pytest.skip("redis-server is not installed")
    port = free_port()
    command = [program, "--port", str(port), "--bind", "127.0.0.1", "--save", "", "--dir", str(tmp_path)]
    server = subprocess.Popen([*END_WITH_PARENT, *command], stdout=subprocess.DEVNULL)
    yield server, port
    server.kill()
    server.wait()


@pytest.fixture
async def redis(redis_process: tuple[subprocess.Popen[bytes], int]) -> AsyncIterator[Redis]:
    """A client of it, once it answers."""
    client = Redis(host="127.0.0.1", port=redis_process[1])
    async with asyncio.timeout(30):
        while True:
            try:
                await client.ping()
                break
            except RedisError:
                await asyncio.sleep(0.05)
    yield client
    await client.aclose()


class Service:
    """A service whose effect is a number that goes up; each instance is like a process of its own."""

    def __init__(
        self, redis: Redis, effects: list[str], *, lease: float = 30, ttl: float = 60, **settings: Any
    ) -> None:
        self.effects = effects
        self.hold: asyncio.Event | None = None
        self.after_effect: Callable[[], Awaitable[object]] | None = None
        self.there = asyncio.Event()
        self.app = Proven(Idempotency(self._handle, RedisIdempotency(redis, lease=lease, ttl=ttl), **settings))

    async def _handle(self, scope: Scope, receive: Receive, send: Send) -> None:
        body = (await receive())["body"]
        if self.hold is not None:
            self.there.set()
            await self.hold.wait()
        self.effects.append(body.decode())
        self.there.set()
        if self.after_effect is not None:
            await self.after_effect()
        await send({"type": "http.response.start", "status": int(scope["query_string"] or b"201"), "headers": []})
        await send({"type": "http.response.body", "body": b"effect %d" % len(self.effects)})

    async def post(self, key: str = "k", body: bytes = b"b", query: bytes = b"", **who: str) -> Answer:
        """One request."""
        answer = await call(self.app, "POST", "/", caller(key=key, **who), body, query_string=query)
        if answer.error is not None:
            raise answer.error
        return answer

    def start(self, key: str = "k") -> Connection:
        """A request under way."""
        connection = Connection(http_scope("POST", "/", caller(key=key)))
        connection.push(b"b")
        connection.start(self.app)
        return connection


Make = Callable[..., Service]


@pytest.fixture
def make(redis: Redis) -> Make:
    """Makes services that share a Redis and their effects."""
    effects: list[str] = []
    return lambda **settings: Service(redis, effects, **settings)


async def test_fifty_identical_requests_to_two_services_have_one_effect(make: Make) -> None:
    """They meet in Redis: one ran, fifty answers are equal."""
    one, two = make(), make()
    answers = await asyncio.gather(*(service.post() for service in (one, two) for _ in range(25)))
    assert {(answer.status, answer.body) for answer in answers} == {(201, b"effect 1")}
    assert one.effects == ["b"]


async def test_payload_tenant_and_refusals(make: Make) -> None:
    """Another payload 422, another tenant its own effect; a refusal frees the key, a final one is kept."""
    one = make(rules=KeyRules(final=frozenset({404})))
    await one.post()
    assert (await one.post(body=b"other")).status == 422
    assert (await one.post(tenant="other")).body == b"effect 2"
    assert [(await one.post("free", query=b"500")).body for _ in range(2)] == [b"effect 3", b"effect 4"]
    assert [(await one.post("kept", query=b"404")).body for _ in range(2)] == [b"effect 5", b"effect 5"]


async def test_a_key_at_work_elsewhere_is_told(make: Make) -> None:
    """The second service answers 409 when it may not wait, and later the first one's answer."""
    one, two = make(), make(rules=KeyRules(wait=0.2))
    one.hold = asyncio.Event()
    first = one.start()
    await one.there.wait()
    assert (await two.post()).status == 409
    one.hold.set()
    # By one that may wait: on a slow machine Redis itself may need longer to answer than the second.
    assert (await first.answer()).body == (await make().post()).body == b"effect 1"


async def test_an_owner_that_crashed_is_taken_over_and_cannot_come_back(make: Make) -> None:
    """When its lease has run out the next request runs; what the first one finishes late changes nothing any more."""
    one, two = make(lease=1), make(lease=1)
    one.hold = asyncio.Event()
    store: Any = one.app.app._store  # type: ignore[attr-defined]

    async def never_renews(_claim: Any) -> None: ...

    store._keep_claimed = never_renews  # as a process that is dead, or stands still
    first = one.start()
    await one.there.wait()
    assert (await two.post()).body == b"effect 1"
    one.hold.set()
    assert (await first.answer()).body == b"effect 2", "the weakness that the page tells of"
    assert (await two.post()).body == b"effect 1"


async def test_a_living_owner_keeps_its_lease(make: Make) -> None:
    """A handler that takes longer than the lease renews it: nobody takes over."""
    one, two = make(lease=3), make(lease=3, rules=KeyRules(wait=4))  # renewed every second, with two to spare
    one.hold = asyncio.Event()
    first = one.start()
    await one.there.wait()
    assert (await two.post()).status == 409
    one.hold.set()
    await first.answer()
    assert len(one.effects) == 1


@pytest.mark.parametrize("late", ["renew", "claim"])
async def test_what_arrives_late_does_not_shorten_the_life_of_an_answer(redis: Redis, late: str) -> None:
    """Each step may take another connection, so a renewal, or a claim that was sent twice, can be overtaken by the end."""
    store = RedisIdempotency(redis, lease=1, ttl=60)
    keys, owner, lease_ms = ("{acme}:k", "{acme}:live"), "owner", 1000
    claimed = await store._claim(keys=keys, args=["f", owner, lease_ms])
    await store._finish(keys=keys, args=[owner, "answer", 60_000])
    if late == "renew":
        said = [await store._renew(keys=keys[:1], args=[owner, lease_ms])]
    else:
        said = await store._claim(keys=keys, args=["f", owner, lease_ms])
    assert (claimed, said) == ([b"claimed"], [1] if late == "renew" else [b"answered", b"answer"])
    assert min(await redis.pttl(keys[0]), await redis.pttl(keys[1])) > 2 * lease_ms
    counted = await redis.zscore(keys[1], keys[0])
    assert counted is not None
    assert counted / 1000 > (await redis.time())[0] + 2


async def test_an_answer_that_cannot_be_recorded_is_given_all_the_same(make: Make, redis: Redis) -> None:
    """The effect stands: whatever the codec says, it is no failure of the request. The log says what that means."""

    class Broken(AnswerCodec):
        def encode(self, result: StoredAnswer) -> str:
            raise ValueError(f"no key to encrypt {result.status} with")

    one = make()
    one.app = Proven(Idempotency(one._handle, RedisIdempotency(redis, codec=Broken())))
    with log_of("holdfast") as log:
        assert (await one.post()).status == 201
    assert [("could not be recorded" in line["message"]) for line in log.lines] == [True]


async def test_a_connection_that_breaks_costs_nothing(redis: Redis, redis_process: tuple[object, int]) -> None:
    """Neither under the handler nor idle, though a client made from a URL does not try again by itself."""
    client = Redis.from_url(f"redis://127.0.0.1:{redis_process[1]}")
    service = Service(client, [])
    admin: Any = redis  # its commands are not typed

    async def break_all() -> None:
        await admin.execute_command("CLIENT", "KILL", "TYPE", "normal", "SKIPME", "yes")

    service.after_effect = break_all
    answers = [await service.post(), await service.post()]
    await break_all()
    answers.append(await service.post("other"))
    await client.aclose()
    assert [answer.body for answer in answers] == [b"effect 1", b"effect 1", b"effect 2"]


async def test_recording_is_tried_for_as_long_as_a_lease(redis: Redis) -> None:
    """With the lease kept meanwhile; then it is given up, and the log says what that means."""
    clock = ManualClock()
    store: Any = RedisIdempotency(redis, lease=30, clock=clock)
    service = Service(redis, [])
    service.app = Proven(Idempotency(service._handle, store))
    renewing: list[bool] = []
    finish, outage = store._finish, BrokenConnection("the server is gone")

    async def keep_claimed(_claim: Any) -> None:
        renewing.append(True)
        try:
            await asyncio.Event().wait()
        finally:
            renewing.append(False)

    async def failing(**call: Any) -> Any:
        assert renewing == [True]
        if clock.monotonic() - began < outage_s:
            raise outage
        return await finish(**call)

    store._keep_claimed, store._finish = keep_claimed, failing
    for key, outage_s, kept in (("k", 20, True), ("l", 60, False)):
        began = clock.monotonic()
        renewing.clear()
        with log_of("holdfast") as log:
            assert (await service.post(key)).status == 201
        await redis.ping()  # a turn for the task that renews to end
        assert (renewing, len(log.lines)) == ([True, False], 0 if kept else 1)
        assert (outage_s < clock.monotonic() - began) is kept


async def test_a_request_that_was_cut_off_keeps_its_key_until_the_lease_ends(make: Make) -> None:
    """Nobody knows how far it came: its client's repetition is told to wait, and does not have the effect again."""
    one = make(lease=2, rules=KeyRules(wait=0.2))
    one.after_effect = lambda: asyncio.Event().wait()
    connection = Connection(http_scope("POST", "/", caller(key="k")))
    connection.push(b"b")
    task = connection.start(one.app)
    await one.there.wait()
    task.cancel()
    await connection.answer()
    one.after_effect = None
    assert ((await one.post()).status, one.effects) == (409, ["b"])
    async with asyncio.timeout(20):
        while (answer := await one.post()).status == 409:
            pass  # each has waited a little, as the rules say
    assert (answer.status, answer.body) == (201, b"effect 2"), "the weakness that the page tells of"


@pytest.mark.parametrize(
    ("error", "status"),
    [
        (OutcomeUnknown("x"), 409),
        (TimeoutError(), 409),
        (BlockTimedOut("x"), 409),
        (ValueError("x"), 201),
        (Contended("x"), 201),
        (DeadlineExceeded("x"), 201),
    ],
    ids=lambda one: type(one).__name__,
)
@pytest.mark.parametrize("applied", [False, True])
async def test_an_error_frees_the_key_where_nothing_can_stand(
    make: Make, error: Exception, status: int, applied: bool
) -> None:
    """What was committed, and what may have been, keeps it until the lease ends."""
    one = make(rules=KeyRules(wait=0.2))

    async def fail() -> None:
        if applied:
            note_applied()
        raise error

    one.after_effect = fail
    with suppress(type(error)):
        await one.post()
    one.after_effect = None
    assert (await one.post()).status == (409 if applied else status)


async def test_a_refusal_after_a_commit_keeps_the_key(make: Make) -> None:
    """The document says that the outcome is unknown; so the repetition must not simply run."""
    one = make(rules=KeyRules(wait=0.2))

    async def commit() -> None:
        note_applied()

    one.after_effect = commit
    assert (await one.post(query=b"503")).status == 503
    assert ((await one.post(query=b"503")).status, len(one.effects)) == (409, 1)


async def test_keys_are_bounded_and_expire(make: Make, redis: Redis) -> None:
    """429 beyond the quota; what expired is not counted, and nothing stays behind."""
    one = make(quota=3, ttl=3, lease=1)  # five requests take no longer than that, on a slow machine either
    assert [(await one.post(f"k{number}")).status for number in range(5)] == [201] * 3 + [429] * 2
    async with asyncio.timeout(60):
        while await redis.dbsize():  # noqa: ASYNC110 - Redis says nothing when an entry expires
            await asyncio.sleep(0.1)
    assert (await make(quota=3).post("k9")).status == 201


async def test_without_redis_nothing_runs(make: Make, redis: Redis) -> None:
    """503 with `Retry-After` before the handler is called, and within seconds."""
    one = make()
    with suppress(RedisError, TimeoutError):
        async with asyncio.timeout(1):  # its client tries on to reach the server that it has just ended
            await redis.shutdown(nosave=True)
    async with asyncio.timeout(30):
        answer = await one.post()
    assert (answer.status, answer.header("retry-after") is not None) == (503, True)
    assert one.effects == []


async def test_a_redis_that_hangs_is_away_and_not_a_key_at_work(
    make: Make, redis_process: tuple[subprocess.Popen[bytes], int], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Frozen: 503 and not 409, soon, and nothing runs; thawed it goes on, with the same key when its lease ends."""
    one = make(lease=1, rules=KeyRules(wait=1))
    with monkeypatch.context() as frozen:
        frozen.setattr("holdfast.ext.redis.idempotency._ANSWERS_WITHIN_S", 0.2)
        redis_process[0].send_signal(signal.SIGSTOP)
        try:
            answer = await one.post()
        finally:
            redis_process[0].send_signal(signal.SIGCONT)
    assert (answer.status, answer.json["type"], one.effects) == (503, "urn:holdfast:problem:unavailable", [])
    async with asyncio.timeout(60):
        while (answer := await one.post()).status == 409:
            pass  # each has waited for the lease, as the rules say
    assert (answer.status, one.effects) == (201, ["b"])


async def test_the_entries_hold_no_key(make: Make, redis: Redis) -> None:
    """Names and values are digests; what is live is counted under the tenant's."""
    await make().post("secret-key")
    assert all(b"secret-key" not in name and b"acme" not in name for name in await redis.keys("*"))


@pytest.mark.parametrize("setting", [{"lease": 0.5}, {"lease": 10, "ttl": 5}])
def test_a_setting_that_cannot_work_is_refused(setting: dict[str, Any]) -> None:
    """Where it is given."""
    with pytest.raises(ConfigurationError):
        RedisIdempotency(Redis(), **setting)


async def test_work_after_the_answer_comes_when_it_is_recorded(redis: Redis) -> None:
    """The answer does not wait for it, and its repetition is answered meanwhile."""
    service, answered, go = Service(redis, []), asyncio.Event(), asyncio.Event()
    inner = service._handle

    async def and_after(scope: Scope, receive: Receive, send: Send) -> None:
        await inner(scope, receive, send)
        answered.set()
        await go.wait()
        service.effects.append("mail")

    service.app = Proven(Idempotency(and_after, RedisIdempotency(redis)))
    connection = service.start()
    await answered.wait()
    assert connection.so_far.complete
    again = await service.post()
    assert (again.header("idempotency-replayed"), service.effects) == ("true", ["b"])
    go.set()
    assert (await connection.answer()).status == 201
    assert service.effects == ["b", "mail"]
