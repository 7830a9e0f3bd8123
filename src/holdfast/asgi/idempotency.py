"""One key, one effect: the same request twice is carried out once, and answered twice.

    app = Idempotency(app, SqlIdempotency(db))          # inside authentication: whose key it is must be proven

    no key ──► required? 400 : the application, as if this layer were not there
    a key  ──► malformed, or twice: 400 ──► nobody proven: 401 ──► the whole body is read (413, 408)
           ──► the store: claim the key ─┬─ it is free: the application runs, its answer waits in memory
                                         │      below 400: effect and answer become durable together, then it is sent
                                         │      else: what it wrote is rolled back, the key is free again, it is sent
                                         │      and then the application goes on, with what it does after its answer
                                         ├─ it is answered: the stored answer, `Idempotency-Replayed: true`
                                         ├─ it belongs to another payload: 422
                                         └─ it is at work: wait for it, then as above; or 409, `Retry-After`

**An answer of 400 or more has no effect.** What the handler wrote is rolled back, also if an inner operation of it had returned
by then. So nobody ever has to guess what a refusal left behind, and the same key can be used again.

The layer decides and the store keeps. With `SqlIdempotency` key, effect and answer are one transaction, and a crash between them
cannot happen; a store of its own (Redis) cannot promise that. Requests of one process that carry the same key wait for each other
here, without a connection; those of other processes meet in the store.
"""

from __future__ import annotations

import asyncio
import inspect
import logging
from collections.abc import Awaitable, Callable
from dataclasses import replace
from typing import ClassVar, Protocol, runtime_checkable

from ..clock import SYSTEM_CLOCK, Clock
from ..deadline import current_deadline, reschedule
from ..decision import StopReason
from ..errors import (
    ConfigurationError,
    DeadlineExceeded,
    HoldfastError,
    InProgress,
    NotCommitted,
    OutcomeUnknown,
    Report,
    attach_report,
    report_of,
)
from ..outcome import Outcome
from .answers import Answer, AnswerBuffer, StoredAnswer, in_no_encoding, without_ways_around
from .authentication import challenges_of
from .body import BodyBuffer, BufferedBody, ClientLeft
from .context import RequestContext, context_of
from .error_log import note_error
from .headers import MalformedHeader, header
from .interface import App, Headers, Message, Receive, Scope, Send
from .key_quota import KeyQuota
from .keyed_request import Fate, KeyIdentity, KeyRules, fate_of, identify, key_of, to_keep
from .problems import Problem, RequestRefused, as_far_as_known, problem_for, send_problem
from .scopes import ScopeBefore
from .stack import Place
from .two_parts import TwoParts

__all__ = ["KEYED_METHODS", "Idempotency", "IdempotencyStore", "KeyedRun", "MayReplay", "RulesFor"]

_log = logging.getLogger("holdfast")

KEYED_METHODS = frozenset({"POST", "PATCH", "PUT", "DELETE"})
"""The methods whose keys count."""

_REPLAYED = (b"idempotency-replayed", b"true")
_ASKING_THE_STORE_S = 1.0

_MISSING = Problem(
    400,
    "idempotency-key-missing",
    detail="This request needs the header Idempotency-Key, with a key of its own, so that it cannot happen twice.",
)
_NOBODY = Problem(
    401,
    "idempotency-key-of-nobody",
    detail="A key belongs to whoever sends it, and nobody proved to be that. Log in, or send the request without a key.",
)
_TOO_MANY = Problem(
    429,
    "too-many-keys",
    detail="Too many keys are alive. Nothing was applied. They expire by themselves.",
    retry_after_s=60,
)
_NOT_CALLED = Report(
    "request",
    attempts=0,
    elapsed_s=0.0,
    reason=StopReason.NOT_RETRYABLE.value,
    outcome=Outcome.NOT_COMMITTED,
    explanation="stopped from outside, before the application was called",
)
_LATE = "a time limit of the application's own ran out after it had answered"
_MAY_NOT = Problem(403, "replay-refused", detail="This was answered before; the answer is not for you any more.")


@runtime_checkable
class IdempotencyStore(Protocol):
    """Where keys and answers are. Implementations serve one event loop, and any number of its tasks.

    One whose transaction is that of the task it runs in, so that no middleware may give the application another, says so by an
    attribute `belongs_to_task` that is true.
    """

    async def answer(self, identity: KeyIdentity, run: KeyedRun) -> Answer | StoredAnswer:
        """The answer to a keyed request: by `run`, or the one that is kept. Not later than the current deadline.

        `await run()` calls the application, and may be called again after a rollback. `run.fate_of` says what becomes of its
        answer, and `run.to_keep` what to keep of it; what is kept is durable when this returns. `run.waits_for_key` keeps other
        waits apart from those for the key.

        Returns:
            An `Answer` if `run` gave it; a `StoredAnswer` if it is a repetition.

        Raises:
            KeyReused: the key's row has another fingerprint.
            InProgress: another request with the key was at work until the deadline.
            NotCommitted, OutcomeUnknown: as everywhere.
            BaseException: what `run` raised, after nothing was applied.
        """

    async def live_keys(self, scope: str, most: int) -> int:
        """How many keys of a tenant are alive, counted up to `most`."""


RulesFor = Callable[[Scope], KeyRules | None]
MayReplay = Callable[[RequestContext, StoredAnswer], "bool | Awaitable[bool]"]


class KeyedRun:
    """The application, to be called for one keyed request: each time from the beginning, with the same body and a fresh scope.

    A call is left where the answer is complete. What the application does after that waits until the answer was given.

    Attributes:
        calls: how often it was called.
        identity: where its row is, and what that must say.
        rules: those of its route.
    """

    __slots__ = (
        "_app",
        "_before",
        "_body",
        "_cancelling",
        "_context",
        "_parts",
        "_patience",
        "_patience_s",
        "_quota",
        "_scope",
        "_took",
        "calls",
        "identity",
        "rules",
    )

    def __init__(
        self,
        app: App,
        scope: Scope,
        body: BufferedBody,
        *,
        context: RequestContext,
        identity: KeyIdentity,
        rules: KeyRules,
        quota: KeyQuota | None,
    ) -> None:
        self._app = app
        self._scope = scope
        self._body = body
        self._context = context
        self._quota = quota
        self._before: ScopeBefore | None = None
        self._parts: TwoParts | None = None
        self._patience: asyncio.Timeout | None = None
        self._patience_s = 0.0
        self._took = False
        task = asyncio.current_task()
        self._cancelling = 0 if task is None else task.cancelling()
        self.identity = identity
        self.rules = rules
        self.calls = 0

    async def __call__(self) -> Answer:
        """Call the application; its complete answer.

        Raises:
            RequestRefused: with 429: the tenant has too many keys.
            UsageError: its answer cannot be kept.
            BaseException: what it raises.
        """
        if self._parts is not None:
            await self.give_up()
        self._begin()
        buffer = AnswerBuffer(self.rules.answer_max)
        parts = self._parts = TwoParts()

        async def send(message: Message) -> None:
            await buffer.send(message)
            if buffer.may_leave:
                await parts.answered()

        await parts.until_answered(self._app(self._scope, self._body.receive, send))
        return buffer.answer()

    async def rest(self) -> None:
        """What the application does after its answer, if that was given.

        Raises:
            BaseException: what it raises.
        """
        if self._parts is not None:
            await self._parts.rest()

    async def give_up(self) -> None:
        """End what was called and is not over: its answer is not given."""
        if self._parts is not None:
            await self._parts.give_up()

    async def cut(self, error: asyncio.CancelledError) -> HoldfastError | None:
        """End what was called and is not over, because of `error`; what to raise instead of it, None: it is for somebody outside.

        A time limit around the answering part of the application runs on while that stands still, and cancels whoever is at work
        for it. It takes its cancellation back as the application ends, so nobody outside would know what to make of it.
        """
        was_left = self._parts is not None and self._parts.is_left
        await self.give_up()
        task = asyncio.current_task()
        if not was_left or task is None or task.cancelling() > self._cancelling:
            return None
        report = report_of(error)
        known = report is not None and report.outcome is Outcome.NOT_COMMITTED
        return DeadlineExceeded(_LATE) if known else OutcomeUnknown(_LATE)

    def _begin(self) -> None:
        if self._patience is not None:
            reschedule(self._patience, None)  # the key is ours: from here on the deadline alone counts
            self._patience = None
        if not self._took and self._quota is not None:
            if not self._quota.take(self.identity.scope):
                raise RequestRefused(_TOO_MANY)
            self._took = True
        self.calls += 1
        self._context.attempts += 1
        if self.calls == 1:
            without_ways_around(self._scope)
            in_no_encoding(self._scope)
            self._before = ScopeBefore(self._scope)
        else:
            assert self._before is not None
            self._before.restore()
            self._body.rewind()

    def fate_of(self, answer: Answer) -> Fate:
        """What becomes of an answer."""
        fate = fate_of(answer, self.rules)
        if fate is Fate.UNDONE:
            self.give_back()
        return fate

    def may_stand(self, error: BaseException | None = None) -> bool:
        """Whether something of what was called may stand, although it was refused or ended with `error`.

        For stores apart from the effects, before they free the key: what was cut off, by its client or its time, cannot say how
        far it came.
        """
        if self._context.applied or self._context.outcome == Outcome.UNKNOWN.value:
            return True
        if error is None or isinstance(error, NotCommitted):
            return False
        return not isinstance(error, Exception) or isinstance(error, (OutcomeUnknown, TimeoutError))

    def give_back(self) -> None:
        """The key was not used: it does not count."""
        if self._took and self._quota is not None:
            self._quota.give_back(self.identity.scope)
            self._took = False

    def to_keep(self, answer: Answer) -> StoredAnswer:
        """What of an answer to keep; says so in the log if that is not all of it."""
        kept = to_keep(answer, self.rules)
        if kept.body is None and self.rules.keep_body:
            _log.warning(
                "the answer to a keyed request has %d bytes, more than the %d that are kept: its repetition will be told that "
                "it was applied, and no more (kept_max)",
                len(answer.body),
                self.rules.kept_max,
            )
        return kept

    def until_begun(self, patience: asyncio.Timeout) -> None:
        """Have `patience` end when the application is called."""
        self._patience = patience

    def waits_for_key(self, waits: bool) -> None:
        """For the store: whether it asks for the key from now on, or waits for something else, such as a connection.

        `KeyRules.wait` counts the time in which it asks. A store that says nothing always does.
        """
        patience = self._patience
        if patience is None or waits is (patience.when() is not None):
            return
        now = asyncio.get_running_loop().time()
        if waits:
            reschedule(patience, now + self._patience_s)
        else:
            self._patience_s = (patience.when() or now) - now
            reschedule(patience, None)


class _AtWork:
    """A key of this process that is at work.

    Attributes:
        ended: set when it is not any more.
        kept: the store has its answer: who waited need not do so one after the other.
    """

    __slots__ = ("ended", "kept")

    def __init__(self) -> None:
        self.ended = asyncio.Event()
        self.kept = False


class Idempotency:
    """The middleware. One instance serves one event loop.

    Args:
        app: the application around which this stands.
        store: where keys and answers are kept.
        rules: how keyed requests are treated; default `KeyRules()`.
        rules_for: the rules of one request by its scope, None: its key is ignored; default: `rules` for all.
        anonymous: the identity of callers that nobody proved. Default None: their keys are refused with 401. A name here means
            that all of them share their keys: whoever sends another's key and the same body gets the other's answer.
        secret: see `keyed_request.identify`; default None. At least 16 bytes.
        methods: the methods whose keys count; default POST, PATCH, PUT and DELETE.
        body: reads the bodies, and bounds what is held of them; default `BodyBuffer()`.
        quota: how many keys of a tenant may be alive (429 beyond), a number or a `KeyQuota`; default 1,000,000; None: no bound.
        may_replay: asked with the request's context before a kept answer is given; False: 403 instead. May be a coroutine
            function. Authentication has let the request pass by then; this is for rights that a route looks up itself.
        clock: for the quota.

    Raises:
        ConfigurationError: the secret is short, or `anonymous` empty.
    """

    place: ClassVar[Place] = Place.IDEMPOTENCY

    __slots__ = (
        "_anonymous", "_at_work", "_body", "_clock", "_may_replay", "_methods", "_quota", "_rules", "_rules_for", "_secret",
        "_store", "app",
    )  # fmt: skip

    def __init__(
        self,
        app: App,
        store: IdempotencyStore,
        *,
        rules: KeyRules | None = None,
        rules_for: RulesFor | None = None,
        anonymous: str | None = None,
        secret: bytes | None = None,
        methods: frozenset[str] = KEYED_METHODS,
        body: BodyBuffer | None = None,
        quota: KeyQuota | int | None = 1_000_000,
        may_replay: MayReplay | None = None,
        clock: Clock = SYSTEM_CLOCK,
    ) -> None:
        if secret is not None and len(secret) < 16:
            raise ConfigurationError(
                "the secret of the fingerprints must have at least 16 bytes; secrets.token_bytes(32)"
            )
        if anonymous == "":
            raise ConfigurationError(
                "anonymous is the name that all unproven callers share, or None to refuse their keys"
            )
        self.app = app
        self._store = store
        self._rules = rules or KeyRules()
        self._rules_for = rules_for
        self._anonymous = anonymous
        self._secret = secret
        self._methods = methods
        self._body = body or BodyBuffer()
        self._quota = KeyQuota(quota) if isinstance(quota, int) else quota
        self._may_replay = may_replay
        self._clock = clock
        self._at_work: dict[tuple[str, str], _AtWork] = {}

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Handle one connection."""
        if scope["type"] != "http" or scope["method"] not in self._methods:
            await self.app(scope, receive, send)
            return
        rules = self._rules if self._rules_for is None else self._rules_for(scope)
        try:
            key = None if rules is None else key_of(scope["headers"])
        except MalformedHeader as malformed:
            problem = Problem(
                400, "idempotency-key-malformed", detail=f"{str(malformed)[0].upper()}{str(malformed)[1:]}."
            )
            await send_problem(send, problem, context_of(scope))
            return
        if rules is None or (key is None and not rules.required):
            await self.app(scope, receive, send)
            return
        context = context_of(scope)
        principal = context.principal or self._anonymous
        if key is None or principal is None:
            await send_problem(send, _MISSING if key is None else _nobody(context), context)
            return
        context.keyed = True
        try:
            async with await self._body.read(scope, receive) as body:
                identity = identify(
                    scope, tenant=context.tenant, principal=principal, key=key, body=body.data, secret=self._secret
                )
                run = KeyedRun(
                    self.app, scope, body, context=context, identity=identity, rules=rules, quota=self._quota
                )
                answer = await self._answer(run)
        except (RequestRefused, NotCommitted, OutcomeUnknown) as refused:
            problem, exchange = as_far_as_known(problem_for(refused), context), context.exchange
            is_gone = exchange is not None and exchange.disconnected
            note_error(refused, problem, context, gone=is_gone)
            if not is_gone:
                await send_problem(send, problem, context)
        except ClientLeft:
            return  # there is nobody to answer
        except asyncio.CancelledError as error:
            if context.attempts == 0 and report_of(error) is None:
                attach_report(error, _NOT_CALLED)
            raise
        else:
            await self._finish(send, answer, context, run)

    # -- one at a time -----------------------------------------------------------------------------------------------

    async def _answer(self, run: KeyedRun) -> Answer | StoredAnswer:
        """The answer, when no other request of this process with the same key is at work any more."""
        identity, wait_s = run.identity, run.rules.wait_s
        deadline = current_deadline()
        has_until_deadline = deadline is not None and deadline.remaining_s() <= wait_s
        row = (identity.scope, identity.key)
        patience = asyncio.timeout(deadline.remaining_s() if deadline is not None and has_until_deadline else wait_s)
        try:
            async with patience:
                while (other := self._at_work.get(row)) is not None:
                    if wait_s == 0:
                        raise _in_progress()
                    await other.ended.wait()
                    if other.kept:
                        break
                if has_until_deadline:
                    # The store keeps to the deadline, and tells a held key from a slow server.
                    reschedule(patience, None)
                else:
                    if wait_s == 0:
                        reschedule(patience, asyncio.get_running_loop().time() + _ASKING_THE_STORE_S)
                    run.until_begun(patience)
                return await self._alone(row, run)
        except TimeoutError:
            if patience.expired():
                raise _in_progress() from None
            raise

    async def _alone(self, row: tuple[str, str], run: KeyedRun) -> Answer | StoredAnswer:
        run.waits_for_key(False)  # whoever counts is not held up by another request with this one
        await self._count_keys(run.identity.scope)
        run.waits_for_key(True)
        here = None
        if row not in self._at_work:
            here = self._at_work[row] = _AtWork()
        try:
            answer = await self._store.answer(run.identity, run)
            if here is not None:
                here.kept = isinstance(answer, StoredAnswer) or fate_of(answer, run.rules) is not Fate.UNDONE
            return answer
        except asyncio.CancelledError as error:
            run.give_back()
            instead = await run.cut(error)
            if instead is None:
                raise
            raise instead from error
        except BaseException:
            run.give_back()
            await run.give_up()
            raise
        finally:
            if here is not None:
                del self._at_work[row]
                here.ended.set()

    async def _count_keys(self, scope: str) -> None:
        quota = self._quota
        if quota is None or not quota.is_due(scope, self._clock.monotonic()):
            return
        try:
            quota.counted(scope, await self._store.live_keys(scope, quota.most), self._clock.monotonic())
        except BaseException as error:
            quota.forget(scope)
            if not isinstance(error, (NotCommitted, OutcomeUnknown)):
                raise  # what is wrong with the store is for the request itself to meet

    # -- the answer --------------------------------------------------------------------------------------------------

    async def _finish(self, send: Send, answer: Answer | StoredAnswer, context: RequestContext, run: KeyedRun) -> None:
        """Give the answer, and let the application go on."""
        if isinstance(answer, StoredAnswer):
            await run.give_up()  # another request was faster
            if answer.status < 400:
                context.applied = True  # once: no error on the way to its answer may say that nothing was
        try:
            await self._send(send, answer, context)
        except asyncio.CancelledError as error:
            instead = await run.cut(error)
            if instead is None:
                raise
            raise instead from error
        except Exception:
            await run.rest()  # the client is gone, or the server failed, but what was asked for is there
            raise
        await run.rest()

    async def _send(self, send: Send, answer: Answer | StoredAnswer, context: RequestContext) -> None:
        if isinstance(answer, Answer):
            await answer.send(send)
            return
        if self._may_replay is not None:
            allowed = self._may_replay(context, answer)
            if not (await allowed if inspect.isawaitable(allowed) else allowed):
                await send_problem(send, _MAY_NOT, context)
                return
        context.replayed = True
        if answer.body is None:
            await send_problem(send, _not_kept(answer), context)
            return
        headers: Headers = [*answer.headers, _REPLAYED]
        if answer.status not in {204, 304}:
            headers.append((b"content-length", b"%d" % len(answer.body)))
        await Answer(answer.status, headers, answer.body).send(send)


def _nobody(context: RequestContext) -> Problem:
    return replace(_NOBODY, headers=tuple(header(b"www-authenticate", one) for one in challenges_of(context)))


def _in_progress() -> InProgress:
    return InProgress("another request with this Idempotency-Key is still at work", retry_after_s=1)


def _not_kept(answer: StoredAnswer) -> Problem:
    return Problem(
        409,
        "answer-not-kept",
        detail="This was applied when it was asked for first. What was answered then is not kept.",
        extensions={"outcome": "committed", "answered": answer.status},
        headers=(*answer.headers, _REPLAYED),
    )
