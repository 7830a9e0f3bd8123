"""Several policies around one call, in the one order that works.

    pipeline = Pipeline(
        RateLimiter("sms", rate=50),
        retry(on=ConnectionError, idempotent=True),
        CircuitBreaker("sms"),
        Bulkhead("sms", permits=10),
        deadline=2.0,
        attempt_timeout=0.5,
    )

    @pipeline                               # functions and coroutine functions; or pipeline.call(...), call_async(...)
    def send(): ...

    with pipeline.block(): ...              # or `async with`; without a retry, which cannot run a block again

From the outside in:

    deadline           bounds everything, waiting included
    rate limit         charges a call once, however often it is tried
    retry              tries again, holding nothing while it waits
    breaker            counts attempts, so retries cannot hide an outage from it
    adaptive limit     sees what the server answers, not what the breaker refuses
    bulkhead           a permit is held during an attempt, never across a delay
    attempt timeout    cuts one attempt, so that there is time for another

Any may be left out; another order is refused when the pipeline is made. Immutable; safe to share between threads and tasks.

What the deadline cuts is a cancelled call to the breaker, neither success nor failure: it may be the caller's own haste, and must
not open a circuit that all share. So before a server that hangs only the attempt timeout, inside, opens it.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterator
from contextlib import AsyncExitStack, ExitStack
from itertools import pairwise
from types import CoroutineType, TracebackType
from typing import TYPE_CHECKING, ParamSpec, TypeAlias, TypeVar

from .adaptive import AdaptiveLimit, Block
from .breaker import CircuitBreaker
from .bulkhead import Bulkhead
from .callables import AroundCallables, name_of, returned_coroutine
from .clock import SYSTEM_CLOCK, Clock
from .deadline import CURRENT, Deadline, seconds, within
from .errors import ConfigurationError, DeadlineExceeded, UsageError
from .ratelimit import RateLimiter
from .retry import retry

if TYPE_CHECKING:
    from datetime import timedelta

__all__ = ["Pipeline", "Policy"]

P = ParamSpec("P")
R = TypeVar("R")

Policy: TypeAlias = RateLimiter | retry | CircuitBreaker | AdaptiveLimit | Bulkhead
"""What a pipeline is made of."""

_ORDER: dict[type[Policy], str] = {
    RateLimiter: "rate limit",
    retry: "retry",
    CircuitBreaker: "breaker",
    AdaptiveLimit: "adaptive limit",
    Bulkhead: "bulkhead",
}
_ORDER_TEXT = (
    "the order, from the outside in, is RateLimiter, retry, CircuitBreaker, AdaptiveLimit, Bulkhead, each at most once"
)


class Pipeline(AroundCallables):
    """Policies around a call, outermost first.

    Args:
        policies: any of `RateLimiter`, `retry`, `CircuitBreaker`, `AdaptiveLimit`, `Bulkhead`, in this order.
        deadline: seconds or `timedelta` for the whole call, or None (default) for the caller's deadline alone. Coroutines are
            cancelled when it passes; a function cannot be, but everything in it that asks (`current_deadline`) sees it. Alone
            it never opens the breaker: a call that it cuts is a cancelled one.
        attempt_timeout: the same for one attempt. A cut one is a failure to the breaker. It may have done its work, so it is
            retried only with `idempotent=True`.
        clock: where deadlines read the time.

    Raises:
        ConfigurationError: the order is wrong, a policy comes twice, there is none, or a duration is outside its bounds.
        DeadlineExceeded: (calls) the deadline had passed before anything was done.
        BlockTimedOut: (calls of coroutines) the deadline passed during the call.
    """

    __slots__ = ("_attempt_timeout_s", "_clock", "_deadline_s", "_policies")

    def __init__(
        self,
        *policies: Policy,
        deadline: float | timedelta | None = None,
        attempt_timeout: float | timedelta | None = None,
        clock: Clock = SYSTEM_CLOCK,
    ) -> None:
        _check_order(policies)
        if not policies and deadline is None and attempt_timeout is None:
            raise ConfigurationError("a pipeline needs a policy, a deadline or an attempt timeout")
        self._policies = policies
        self._deadline_s = None if deadline is None else seconds(deadline, name="Pipeline.deadline")
        self._attempt_timeout_s = (
            None if attempt_timeout is None else seconds(attempt_timeout, name="Pipeline.attempt_timeout")
        )
        self._clock = clock

    def describe(self) -> tuple[str, ...]:
        """One line a layer, outermost first: for tests and logs."""
        layers = [f"{_ORDER[type(policy)]}: {policy!r}" for policy in self._policies]
        if self._deadline_s is not None:
            layers.insert(0, f"deadline: {self._deadline_s:g} s")
        if self._attempt_timeout_s is not None:
            layers.append(f"attempt timeout: {self._attempt_timeout_s:g} s")
        return tuple(layers)

    def block(self) -> _Block:
        """The pipeline around one `with` or `async with` block.

        Raises:
            UsageError: there is a retry in it, and a block cannot be run again.
        """
        if any(isinstance(policy, retry) for policy in self._policies):
            raise UsageError(
                "a block cannot be run again: decorate a function with this pipeline, "
                "or leave the retry out and put the block into `for attempt in retry(...): with attempt:`"
            )
        return _Block(self)

    def _around(self, function: Callable[P, R]) -> Callable[P, R]:
        name = name_of(function)
        guarded = function if self._attempt_timeout_s is None else self._attempt(function, self._attempt_timeout_s)
        for policy in reversed(self._policies):
            # The retry reports on the function by its name, which the layers inside hide from it.
            guarded = policy._around(guarded, name) if isinstance(policy, retry) else policy._around(guarded)
        return self._in_time(guarded, self._deadline_s)

    def _around_async(self, function: Callable[P, Awaitable[R]]) -> Callable[P, Awaitable[R]]:
        name = name_of(function)
        guarded = (
            function if self._attempt_timeout_s is None else self._attempt_async(function, self._attempt_timeout_s)
        )
        for policy in reversed(self._policies):
            guarded = (
                policy._around_async(guarded, name) if isinstance(policy, retry) else policy._around_async(guarded)
            )
        return self._in_time_async(guarded, self._deadline_s)

    def _in_time(self, guarded: Callable[P, R], deadline_s: float | None) -> Callable[P, R]:
        clock, monotonic = self._clock, self._clock.monotonic
        get_deadline, set_deadline, reset_deadline = CURRENT.get, CURRENT.set, CURRENT.reset

        def unless_late(*args: P.args, **kwargs: P.kwargs) -> R:
            outer = get_deadline()
            if outer is not None and outer.has_passed():
                raise _too_late()
            return guarded(*args, **kwargs)

        if deadline_s is None:
            return unless_late

        # By hand what `within` does, at a third of its price: this is on the path of every call.
        def bounded(*args: P.args, **kwargs: P.kwargs) -> R:
            now, outer = monotonic(), get_deadline()
            if outer is not None:
                left_s = outer.expires_at - now if outer._clock is clock else outer.remaining_s()
                if left_s <= deadline_s:
                    return unless_late(*args, **kwargs)
            if deadline_s == 0:
                raise _too_late()
            token = set_deadline(Deadline(now + deadline_s, clock))
            try:
                result = guarded(*args, **kwargs)
            finally:
                reset_deadline(token)
            if type(result) is CoroutineType:
                raise returned_coroutine(guarded, result)
            return result

        return bounded

    def _in_time_async(self, guarded: Callable[P, Awaitable[R]], deadline_s: float | None) -> Callable[P, Awaitable[R]]:
        clock = self._clock

        async def bounded(*args: P.args, **kwargs: P.kwargs) -> R:
            outer = CURRENT.get()
            if deadline_s == 0 or (outer is not None and outer.has_passed()):
                raise _too_late()
            if deadline_s is None:
                return await guarded(*args, **kwargs)
            async with within(deadline_s, clock=clock):
                return await guarded(*args, **kwargs)

        return bounded

    def _attempt(self, function: Callable[P, R], timeout_s: float) -> Callable[P, R]:
        clock = self._clock

        def attempt(*args: P.args, **kwargs: P.kwargs) -> R:
            with within(timeout_s, clock=clock):
                result = function(*args, **kwargs)
            if type(result) is CoroutineType:
                raise returned_coroutine(function, result)
            return result

        return attempt

    def _attempt_async(self, function: Callable[P, Awaitable[R]], timeout_s: float) -> Callable[P, Awaitable[R]]:
        clock = self._clock

        async def attempt(*args: P.args, **kwargs: P.kwargs) -> R:
            async with within(timeout_s, clock=clock):
                return await function(*args, **kwargs)

        return attempt

    def __repr__(self) -> str:
        return f"<Pipeline: {' -> '.join(self.describe())}>"


class _Block:
    """One block under a pipeline. Serves once."""

    __slots__ = ("_async_stack", "_pipeline", "_stack")

    def __init__(self, pipeline: Pipeline) -> None:
        self._pipeline = pipeline
        self._stack = ExitStack()
        self._async_stack = AsyncExitStack()

    def __enter__(self) -> None:
        with ExitStack() as stack:
            for layer in self._layers():
                stack.enter_context(layer)
            self._stack = stack.pop_all()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None
    ) -> bool | None:
        return self._stack.__exit__(kind, error, tb)

    async def __aenter__(self) -> None:
        async with AsyncExitStack() as stack:
            for layer in self._layers():
                await stack.enter_async_context(layer)
            self._async_stack = stack.pop_all()

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None
    ) -> bool | None:
        return await self._async_stack.__aexit__(kind, error, tb)

    def _layers(self) -> Iterator[within | RateLimiter | CircuitBreaker | Block | Bulkhead]:
        pipeline = self._pipeline
        outer = CURRENT.get()
        if pipeline._deadline_s == 0 or (outer is not None and outer.has_passed()):
            raise _too_late()
        if pipeline._deadline_s is not None:
            yield within(pipeline._deadline_s, clock=pipeline._clock)
        for policy in pipeline._policies:
            if not isinstance(policy, retry):
                yield policy.block() if isinstance(policy, AdaptiveLimit) else policy
        if pipeline._attempt_timeout_s is not None:
            yield within(pipeline._attempt_timeout_s, clock=pipeline._clock)


def _check_order(policies: tuple[Policy, ...]) -> None:
    ranks = list(_ORDER)
    for policy in policies:
        if type(policy) not in _ORDER:
            raise ConfigurationError(f"a pipeline cannot hold {type(policy).__name__}: {_ORDER_TEXT}")
    given = [ranks.index(type(policy)) for policy in policies]
    for before, after in pairwise(given):
        if before == after:
            raise ConfigurationError(f"{ranks[after].__name__} comes twice: {_ORDER_TEXT}")
        if before > after:
            raise ConfigurationError(f"{ranks[after].__name__} comes after {ranks[before].__name__}: {_ORDER_TEXT}")


def _too_late() -> DeadlineExceeded:
    return DeadlineExceeded("the deadline had passed before the call began")
