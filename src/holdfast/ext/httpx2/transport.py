"""The transport for sync clients. May be shared between threads as far as the inner one may (httpx2's own may)."""

from __future__ import annotations

from collections.abc import Callable
from types import TracebackType
from typing import Self, cast

import httpx2

from ...clock import SYSTEM_CLOCK, Clock, Random, new_token, system_random
from ...layer import retry_layer
from ...stream import EVENTS, EventStream
from .bodies import KEPT_WITHIN_S, Bounded, keep
from .call import Attempt, Call, Desk, Result, checked_rules, given
from .rules import CallRules

__all__ = ["RetryTransport", "shorten_reading"]

_LEAST_S = 0.001


class RetryTransport(httpx2.BaseTransport):
    """Sends requests through another transport, by `CallRules`.

    - A failure after which nothing was sent is tried again for every request; one after which it may have been done only for
      an idempotent method or a request with an `Idempotency-Key`. A body that is a stream is not sent twice.
    - The caller's deadline bounds every step of an attempt and every wait, and is sent on as remaining time. A thread cannot be
      cut: each step (connecting, sending, each read of the head) may take what was left when the attempt began, each read of the
      body what was left when the head had come. So slow steps can add up to more, and a server that sends its head a byte now
      and then can outlast the deadline; an async client is not held so.
    - The last answer or error is what the caller gets, with a `Report`: `report_of(error)`, or the answer's extension
      `holdfast_report`.

    Args:
        inner: what sends; default `httpx2.HTTPTransport()`. It should not retry by itself.
        rules: default `CallRules()`.
        clock, random, events, new_key: where time, jitter, listeners and `Idempotency-Key`s come from.

    Raises:
        ConfigurationError: the rules ask for hedges.
        DeadlineExceeded: (requests) no time was left; nothing was sent.
        BreakerOpen: (requests) the host's breaker is open; nothing was sent.
        httpx2.TransportError: (requests) the last attempt's error.
    """

    def __init__(
        self,
        inner: httpx2.BaseTransport | None = None,
        rules: CallRules | None = None,
        *,
        clock: Clock = SYSTEM_CLOCK,
        random: Random = system_random,
        events: EventStream = EVENTS,
        new_key: Callable[[], str] = new_token,
    ) -> None:
        self._desk = Desk(checked_rules(rules, hedging=False), clock, random, events, new_key)
        self._inner = httpx2.HTTPTransport() if inner is None else inner

    def handle_request(self, request: httpx2.Request) -> httpx2.Response:
        """Send one request, as often as the rules allow and need be."""
        call = Call(self._desk, request)
        last: Result | None = None
        result: Result | None = None
        try:
            with retry_layer():
                while True:
                    attempt = call.begin(last)
                    if attempt is None:
                        assert last is not None
                        return given(last)
                    result = self._send(attempt)
                    delay_s = call.ended(attempt, result)
                    if delay_s is None:
                        return self._handed_over(call, attempt, given(result))
                    last = self._kept(attempt, result)
                    self._desk.clock.sleep(delay_s)
        except Exception:
            raise
        except BaseException as stop:
            call.stopped(stop)
            raise
        finally:
            last = result = None  # an error that is raised from here holds this frame: no circle

    def _send(self, attempt: Attempt) -> Result:
        try:
            return self._inner.handle_request(attempt.request)
        except Exception as error:
            return error

    def _kept(self, attempt: Attempt, result: Result) -> Result:
        if isinstance(result, Exception):
            return result
        shorten_reading(attempt)
        return keep(result, self._desk.clock)

    def _handed_over(self, call: Call, attempt: Attempt, response: httpx2.Response) -> httpx2.Response:
        if call.deadline is not None:
            # What was left when the attempt began is partly used up; with none at all a socket would not wait for what is there.
            _read_within(attempt, max(call.deadline.remaining_s(), _LEAST_S))
            response.stream = Bounded(cast("httpx2.SyncByteStream", response.stream), call.deadline)
        return response

    def __enter__(self) -> Self:
        self._inner.__enter__()
        return self

    def __exit__(
        self,
        exc_type: type[BaseException] | None = None,
        exc_value: BaseException | None = None,
        traceback: TracebackType | None = None,
    ) -> None:
        self._inner.__exit__(exc_type, exc_value, traceback)

    def close(self) -> None:
        """Close the inner transport."""
        self._inner.close()


def shorten_reading(attempt: Attempt) -> None:
    """A refusal's body is not waited for as long as an answer's. The inner transport looks when it begins to read the body."""
    _read_within(attempt, KEPT_WITHIN_S)


def _read_within(attempt: Attempt, limit_s: float) -> None:
    timeouts = attempt.request.extensions["timeout"]
    known_s = timeouts.get("read")
    timeouts["read"] = limit_s if known_s is None else min(known_s, limit_s)
