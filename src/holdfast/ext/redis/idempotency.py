"""Idempotency-Keys in Redis: for services whose effects are not in one SQL database. Weaker than `SqlIdempotency`.

    app = Idempotency(app, RedisIdempotency(Redis.from_url("redis://cache1")))

**What it cannot promise.** Effect and record are two systems, so a crash can fall between them:

- The process dies after the effect and before the answer is recorded, or Redis is away for longer than the lease: when that has
  run out, the same request has its effect once more. A connection that breaks is not enough: recording is tried again for as
  long as a lease, and the client is answered after 2 s at the latest.
- A request that was cut off (its client hung up, its time was up, the service ended), or whose outcome is unknown, keeps its key
  until the lease has run out: until then its repetition is told 409. After that it runs, and may have its effect once more.
- A handler that stops for longer than its lease (a frozen process, a long garbage collection) may wake up beside another one.
- What a handler wrote before it answered 400 or more stays, unless it takes it back itself.
- Redis replicates asynchronously: a failover may lose the last keys; and it must not evict them (`maxmemory-policy noeviction`).

So it holds against clients that repeat, not against every crash. A handler whose effect must not happen twice still gives it a
key of its own (`db.transaction(...).keyed(key)`, or the `Idempotency-Key` of the service it calls).

**How it works.** Each step is one Lua script, atomic on the server. Claiming a key sets its fingerprint and its owner, a token of
this very request, with the lease as its time to live; a task renews it while the handler runs. Finishing replaces the lease by
the answer, letting go removes it; both do so for the owner alone, so a request that lost its lease changes nothing any more. An
owner that crashed is taken over by the lease's end. Where Redis cannot be reached, or does not answer, the request is refused
with 503 before anything runs; a claim that reached it after all ends with its lease.
"""

from __future__ import annotations

import asyncio
import logging
from typing import TYPE_CHECKING, Any, NamedTuple

from redis.exceptions import ConnectionError as BrokenConnection
from redis.exceptions import RedisError

from ...asgi.answers import Answer, AnswerCodec, StoredAnswer
from ...asgi.keyed_request import Fate
from ...backoff import Backoff
from ...clock import SYSTEM_CLOCK, Clock, Random, new_token, system_random
from ...deadline import current_deadline, seconds
from ...errors import ConfigurationError, InProgress, KeyReused, Unavailable
from ...operation import ResultCodec
from ...traces import trace_of

if TYPE_CHECKING:
    from datetime import timedelta

    from redis.asyncio import Redis

    from ...asgi.idempotency import KeyedRun
    from ...asgi.keyed_request import KeyIdentity

__all__ = ["RedisIdempotency"]

_log = logging.getLogger("holdfast")

# KEYS: the key's hash, the tenant's live keys. Fields: f fingerprint, o owner, a answer. A claim by the same owner is the same
# claim: its answer was lost on the way. Steps may overtake each other, each on a connection of its own: no lease is put in the
# place of the time that an answer is kept.
_CLAIM = """
local found = redis.call('HMGET', KEYS[1], 'f', 'o', 'a')
if found[1] and (found[2] ~= ARGV[2] or found[3]) then
  if found[1] ~= ARGV[1] then return {'other'} end
  if found[3] then return {'answered', found[3]} end
  return {'at work', redis.call('PTTL', KEYS[1])}
end
redis.call('HSET', KEYS[1], 'f', ARGV[1], 'o', ARGV[2])
redis.call('PEXPIRE', KEYS[1], ARGV[3])
local now = redis.call('TIME')
redis.call('ZADD', KEYS[2], now[1] * 1000 + ARGV[3], KEYS[1])
if redis.call('PTTL', KEYS[2]) < tonumber(ARGV[3]) then redis.call('PEXPIRE', KEYS[2], ARGV[3]) end
return {'claimed'}
"""
_FINISH = """
if redis.call('HGET', KEYS[1], 'o') ~= ARGV[1] then return 0 end
redis.call('HSET', KEYS[1], 'a', ARGV[2])
redis.call('PEXPIRE', KEYS[1], ARGV[3])
local now = redis.call('TIME')
redis.call('ZADD', KEYS[2], now[1] * 1000 + ARGV[3], KEYS[1])
if redis.call('PTTL', KEYS[2]) < tonumber(ARGV[3]) then redis.call('PEXPIRE', KEYS[2], ARGV[3]) end
return 1
"""
_RENEW = """
if redis.call('HGET', KEYS[1], 'o') ~= ARGV[1] then return 0 end
if redis.call('HEXISTS', KEYS[1], 'a') == 1 then return 1 end
return redis.call('PEXPIRE', KEYS[1], ARGV[2])
"""
_RELEASE = """
if redis.call('HGET', KEYS[1], 'o') ~= ARGV[1] or redis.call('HEXISTS', KEYS[1], 'a') == 1 then return 0 end
redis.call('ZREM', KEYS[2], KEYS[1])
return redis.call('DEL', KEYS[1])
"""
_COUNT = """
local now = redis.call('TIME')
redis.call('ZREMRANGEBYSCORE', KEYS[1], '-inf', now[1] * 1000)
return redis.call('ZCARD', KEYS[1])
"""

_DEFAULT_WAIT_S = 10.0
_ANSWERS_WITHIN_S = 2.0
"""How long Redis may take for one script; redis-py by itself tries on for longer than a client waits."""
_AWAY = (RedisError, TimeoutError)
_POLLING = Backoff(base=0.02, cap=0.5)


class _Claim(NamedTuple):
    """A key that is ours: the names of its entries, and the token that says so."""

    keys: tuple[str, str]
    owner: str


class RedisIdempotency:
    """An `IdempotencyStore` in Redis. Safe to share between the tasks of one event loop.

    Args:
        redis: an asyncio client; whoever made it closes it.
        lease: how long a key stays claimed by a process that died, seconds or `timedelta`, default 30; at least 1. A living
            one renews it three times as often.
        ttl: how long an answer is kept, seconds or `timedelta`, default 72 hours; at least `lease`.
        prefix: what the names of the entries begin with; default `holdfast:idempotency:`.
        codec: turns a `StoredAnswer` into text and back; default `AnswerCodec()`. Wrap it to encrypt.
        clock, random: for waiting.

    Raises:
        ConfigurationError: a time is outside its bounds.
    """

    def __init__(
        self,
        redis: Redis,
        *,
        lease: float | timedelta = 30.0,
        ttl: float | timedelta = 72 * 3600.0,
        prefix: str = "holdfast:idempotency:",
        codec: ResultCodec | None = None,
        clock: Clock = SYSTEM_CLOCK,
        random: Random = system_random,
    ) -> None:
        self._lease_s = seconds(lease, name="lease")
        ttl_s = seconds(ttl, name="ttl")
        if not 1 <= self._lease_s <= ttl_s:
            raise ConfigurationError("lease must be at least 1 s and at most ttl, or keys end while they are needed")
        self._lease_ms, self._ttl_ms = round(self._lease_s * 1000), round(ttl_s * 1000)
        self._prefix = prefix
        self._codec = codec or AnswerCodec()
        self._clock = clock
        self._random = random
        self._recordings: set[asyncio.Task[None]] = set()  # the loop alone would not keep them alive
        self._claim = redis.register_script(_CLAIM)
        self._finish = redis.register_script(_FINISH)
        self._renew = redis.register_script(_RENEW)
        self._release = redis.register_script(_RELEASE)
        self._count = redis.register_script(_COUNT)

    async def answer(self, identity: KeyIdentity, run: KeyedRun) -> Answer | StoredAnswer:
        """As in `IdempotencyStore`; see the top for what is weaker."""
        claim = _Claim(self._names(identity), new_token())
        kept = await self._claimed(claim, identity.fingerprint)
        if kept is not None:
            return kept
        renewing = asyncio.create_task(self._keep_claimed(claim))
        recording: asyncio.Task[None] | None = None
        try:
            answer = await self._ran(claim, run)
            if run.fate_of(answer) is not Fate.UNDONE:
                recording = asyncio.create_task(self._record(claim, run.to_keep(answer)))
                self._recordings.add(recording)
                recording.add_done_callback(self._recordings.discard)
                recording.add_done_callback(lambda _: renewing.cancel())
        finally:
            if recording is None:
                renewing.cancel()
        if recording is not None:
            # Waited for and not awaited: what the client does meanwhile changes nothing of what was done. And it is answered
            # soon, also while Redis is away.
            await asyncio.wait({recording}, timeout=_ANSWERS_WITHIN_S)
        elif not run.may_stand():
            await asyncio.shield(self._let_go(claim))
        return answer

    async def live_keys(self, scope: str, most: int) -> int:
        """As in `IdempotencyStore`."""
        live: int = await self._asked(self._count, [self._live(scope)], [])
        return min(live, most)

    async def _ran(self, claim: _Claim, run: KeyedRun) -> Answer:
        try:
            return await run()
        except BaseException as error:
            if not run.may_stand(error):
                await asyncio.shield(self._let_go(claim))
            raise

    # -- the key's life ----------------------------------------------------------------------------------------------

    async def _claimed(self, claim: _Claim, fingerprint: str) -> StoredAnswer | None:
        """None when the key is ours; the answer if it has one."""
        deadline = current_deadline()
        left_s = _DEFAULT_WAIT_S if deadline is None else deadline.remaining_s()
        until = self._clock.monotonic() + left_s
        waits = 0
        while True:
            found = await self._asked(self._claim, claim.keys, [fingerprint, claim.owner, self._lease_ms])
            state = _text(found[0])
            if state == "claimed":
                return None
            if state == "answered":
                kept: StoredAnswer = self._codec.decode(_text(found[1]))
                return kept
            if state == "other":
                raise KeyReused("this key belongs to another request; use a new key for a new request")
            waits += 1
            delay_s = _POLLING.delay_s(waits, self._random())
            if self._clock.monotonic() + delay_s >= until:
                raise InProgress("another request with this key is still at work", retry_after_s=1)
            await self._clock.sleep_async(delay_s)

    async def _keep_claimed(self, claim: _Claim) -> None:
        while True:
            await self._clock.sleep_async(self._lease_s / 3)
            try:
                ours = await _called(self._renew, claim.keys[:1], [claim.owner, self._lease_ms])
            except _AWAY as error:
                _log.warning(
                    "the lease of an Idempotency-Key could not be renewed; the next try follows\n%s", trace_of(error)
                )
                continue
            if not ours:
                _log.error("a request lost the lease of its Idempotency-Key: another may have the same effect again")
                return

    async def _record(self, claim: _Claim, kept: StoredAnswer) -> None:
        try:
            if await self._finished(claim, self._codec.encode(kept)):
                return
        except Exception as error:  # whatever it is, also of the codec: the effect stands, and its answer is known
            _log.error(
                "the answer to a keyed request could not be recorded: its repetition will run again\n%s",
                trace_of(error),
            )
            return
        _log.error("a request had lost the lease of its Idempotency-Key: another may have had the same effect again")

    async def _finished(self, claim: _Claim, text: str) -> bool:
        """Whether the key was still ours. Tried for as long as a lease: a broken connection must not double the effect."""
        until = self._clock.monotonic() + self._lease_s
        tries = 0
        while True:
            try:
                return bool(await _called(self._finish, claim.keys, [claim.owner, text, self._ttl_ms]))
            except _AWAY:
                tries += 1
                delay_s = _POLLING.delay_s(tries, self._random())
                if self._clock.monotonic() + delay_s >= until:
                    raise
            await self._clock.sleep_async(delay_s)

    async def _let_go(self, claim: _Claim) -> None:
        try:
            await _called(self._release, claim.keys, [claim.owner])
        except _AWAY as error:
            _log.warning("an Idempotency-Key could not be freed; its lease ends by itself\n%s", trace_of(error))

    async def _asked(self, script: Any, keys: Any, args: list[str | int]) -> Any:
        try:
            try:
                return await _called(script, keys, args)
            except BrokenConnection:
                # An idle connection that the other end has closed says nothing of Redis; who asks twice has claimed once.
                return await _called(script, keys, args)
        except _AWAY as error:
            raise Unavailable(
                "the store of the Idempotency-Keys is away; nothing was applied", retry_after_s=2
            ) from error

    def _names(self, identity: KeyIdentity) -> tuple[str, str]:
        # The braces put a tenant's entries on one node of a cluster, as scripts with two of them need.
        return f"{self._prefix}{{{identity.scope}}}:{identity.key}", self._live(identity.scope)

    def _live(self, scope: str) -> str:
        return f"{self._prefix}{{{scope}}}:live"


async def _called(script: Any, keys: Any, args: list[str | int]) -> Any:
    async with asyncio.timeout(_ANSWERS_WITHIN_S):
        return await script(keys=keys, args=args)


def _text(found: str | bytes) -> str:
    return found if isinstance(found, str) else found.decode()
