"""Calls to other services through a transport that answers from memory: what is sent, how often, and what the caller gets."""

from __future__ import annotations

import contextlib
import gc
import logging
import subprocess
import sys
import weakref
from collections.abc import AsyncIterator, Callable, Iterator

import httpx2
import pytest

from holdfast.asgi.context import CURRENT, RequestContext
from holdfast.backoff import Backoff
from holdfast.breaker import BreakerState, CircuitBreaker
from holdfast.deadline import within
from holdfast.decision import Allowance, RetryPolicy
from holdfast.errors import BreakerOpen, DeadlineExceeded, Report, report_of
from holdfast.events import AttemptFailed, CallEnded, RetryDenied, RetryScheduled
from holdfast.ext.httpx2 import (
    REPORT_EXTENSION,
    AsyncRetryTransport,
    CallRules,
    RetryTransport,
    async_client,
    client,
)
from holdfast.ext.httpx2.hosts import HostBreakers
from holdfast.layer import retry_layer
from holdfast.outcome import FailureClass, Outcome
from holdfast.retry import retry
from holdfast.testing import ManualClock
from tests.unit.outgoing_calls import Body, Sender, Service, Step

SECRET = "s3cret"


@pytest.fixture
def clock() -> ManualClock:
    return ManualClock()


@pytest.fixture(params=[False, True], ids=["sync", "async"])
def sender(request: pytest.FixtureRequest, clock: ManualClock) -> Sender:
    return Sender(request.param, clock)


def report_on(response: httpx2.Response) -> Report:
    report = response.extensions[REPORT_EXTENSION]
    assert isinstance(report, Report)
    return report


# -- what is tried again -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("method", ["GET", "POST"])
def test_what_was_not_sent_is_tried_again(sender: Sender, method: str) -> None:
    """A refused connection is safe to try again for every request, with the same body, and told by events."""
    service = Service(httpx2.ConnectError("x"), httpx2.ConnectTimeout("x"), 200)
    answer = sender.send(service, method, content=b"body")
    assert (answer.status_code, len(service.requests)) == (200, 3)
    assert [request.content for request in service.requests] == [b"body"] * 3
    assert len(sender.clock.sleeps) == 2
    assert sender.clock.sleeps[0] < 0.05
    assert [type(event) for event in sender.hook.events] == [
        *(AttemptFailed, RetryScheduled),
        *(AttemptFailed, RetryScheduled),
        CallEnded,
    ]
    (end,) = sender.hook.of(CallEnded)
    assert end == CallEnded(f"{method} shop.example", 3, end.elapsed_s, succeeded=True)
    assert end.elapsed_s == pytest.approx(sum(sender.clock.sleeps))


@pytest.mark.parametrize("error", [httpx2.ReadTimeout("x"), httpx2.ReadError("x"), httpx2.RemoteProtocolError("x")])
def test_what_may_have_been_done_is_tried_again_only_if_that_is_harmless(sender: Sender, error: Exception) -> None:
    """After a timeout or a reset: reads, PUT, DELETE and requests with a key; POST and PATCH not."""
    for method, headers, attempts in (
        ("GET", {}, 3),
        ("PUT", {}, 3),
        ("DELETE", {}, 3),
        ("POST", {"Idempotency-Key": "k"}, 3),
        ("POST", {}, 1),
        ("PATCH", {}, 1),
    ):
        service = Service(error)
        with pytest.raises(type(error)) as caught:
            sender.send(service, method, headers=headers)
        assert len(service.requests) == attempts, method
        report = report_of(caught.value)
        assert report is not None
        assert report.attempts == attempts
        assert report.outcome is (None if method == "GET" else Outcome.UNKNOWN)
        assert report.reason == ("attempts" if attempts == 3 else "may_be_applied")
        assert report.exhausted is (attempts == 3)  # whatever the same object's report from before says


@pytest.mark.parametrize(
    ("method", "step", "applied"),
    [
        ("GET", 200, False),
        ("GET", httpx2.ReadError("x"), False),
        ("POST", 201, True),
        ("POST", 422, False),
        ("POST", 500, True),
        ("POST", 502, True),
        ("POST", lambda _: httpx2.Response(503, headers={"Retry-After": "9999"}), False),
        ("POST", httpx2.ReadError("x"), True),
        ("POST", httpx2.ConnectError("x"), False),
        ("GET", 500, False),
    ],
)
def test_what_another_service_took_is_noted(sender: Sender, method: str, step: Step, applied: bool) -> None:
    """The request that the call is made for has done something that stands, or may have: who fails says not how far it came."""
    assert applied_by(lambda: sender.send(Service(step), method)) is applied


@pytest.mark.parametrize(("first", "applied"), [(httpx2.ReadError("x"), True), (httpx2.ConnectError("x"), False)])
def test_a_refusal_does_not_take_back_what_an_attempt_before_may_have_done(
    sender: Sender, first: Step, applied: bool
) -> None:
    """The second DELETE finds nothing: perhaps because the first one, whose answer was lost, was carried out."""
    assert applied_by(lambda: sender.send(Service(first, 404), "DELETE")) is applied


def applied_by(call: Callable[[], object]) -> bool:
    """Whether `call`, made for a request, is noted as something that stands."""
    context = RequestContext(0.0)
    token = CURRENT.set(context)
    try:
        with contextlib.suppress(httpx2.TransportError):
            call()
    finally:
        CURRENT.reset(token)
    return context.applied


def test_the_authors_word_goes_before_the_method(sender: Sender) -> None:
    """A POST that only searches is tried again, a GET that counts is not."""
    for method, word, attempts in (("POST", True, 2), ("GET", False, 1)):
        service = Service(httpx2.ReadError("x"), 200)
        with contextlib.suppress(httpx2.ReadError):
            sender.send(service, method, extensions={"holdfast_idempotent": word})
        assert len(service.requests) == attempts


def test_the_last_refusal_is_the_answer(sender: Sender) -> None:
    """When attempts are used up the caller gets the last answer with its body, and the report says why there was no other."""
    service = Service(503)
    answer = sender.send(service)
    assert (answer.status_code, answer.text) == (503, "answer 3")
    assert (report_on(answer).reason, report_on(answer).attempts) == ("attempts", 3)
    assert sender.hook.of(RetryDenied) == [RetryDenied("GET shop.example", 3, FailureClass.AMBIGUOUS, "attempts")]


def test_other_answers_are_answers(sender: Sender) -> None:
    """A 404, a 500 and a redirect are given to the caller at once."""
    for status in (302, 404, 409, 500):
        service = Service(status)
        answer = sender.send(service)
        assert (answer.status_code, len(service.requests)) == (status, 1)
        assert REPORT_EXTENSION not in answer.extensions


def test_retry_after_is_honoured(sender: Sender) -> None:
    """The wait is at least what was asked for and at most a quarter more; a POST that was refused is sent again."""
    service = Service(httpx2.Response(429, headers={"Retry-After": "2"}), 200)
    assert sender.send(service, "POST", json={"a": 1}).status_code == 200
    (slept,) = sender.clock.sleeps
    assert 2.0 <= slept <= 2.5
    assert [request.content for request in service.requests] == [b'{"a":1}'] * 2


def test_who_asks_for_too_much_patience_is_not_asked_again(sender: Sender) -> None:
    """A Retry-After beyond the bound ends it: the caller gets the answer, and nothing slept."""
    service = Service(httpx2.Response(503, headers={"Retry-After": "30"}))
    answer = sender.send(service, "POST")
    assert (answer.headers["retry-after"], len(service.requests), sender.clock.sleeps) == ("30", 1, [])
    assert report_on(answer).outcome is Outcome.NOT_COMMITTED


def test_a_keyed_request_still_at_work_is_asked_for_again(sender: Sender) -> None:
    """A 409 with Retry-After to a request with a key means that the first of the two is not done yet."""
    service = Service(httpx2.ReadTimeout("x"), httpx2.Response(409, headers={"Retry-After": "1"}), 201)
    assert sender.send(service, "POST", headers={"Idempotency-Key": "k"}).status_code == 201
    assert service.keys == ["k"] * 3


# -- bodies --------------------------------------------------------------------------------------------------------------


class Once(httpx2.SyncByteStream, httpx2.AsyncByteStream):
    """A body that can be read once."""

    def __init__(self) -> None:
        self.reads = 0

    def __iter__(self) -> Iterator[bytes]:
        self.reads += 1
        yield b"once"

    async def __aiter__(self) -> AsyncIterator[bytes]:
        self.reads += 1
        yield b"once"


class Streaming(httpx2.BaseTransport, httpx2.AsyncBaseTransport):
    """Fails before or after the body is read, then answers."""

    def __init__(self, before: Exception | None, after: Exception | int) -> None:
        self._before = before
        self._after = after
        self.calls = 0

    def handle_request(self, request: httpx2.Request) -> httpx2.Response:
        self._begin()
        assert isinstance(request.stream, httpx2.SyncByteStream)
        return self._end(list(request.stream))

    async def handle_async_request(self, request: httpx2.Request) -> httpx2.Response:
        self._begin()
        assert isinstance(request.stream, httpx2.AsyncByteStream)
        return self._end([part async for part in request.stream])

    def _begin(self) -> None:
        self.calls += 1
        if self._before is not None:
            before, self._before = self._before, None
            raise before

    def _end(self, parts: list[bytes]) -> httpx2.Response:
        assert parts == [b"once"]
        if isinstance(self._after, Exception):
            raise self._after
        return httpx2.Response(self._after)


@pytest.mark.parametrize(
    ("before", "after", "calls"),
    [
        (httpx2.ConnectError("x"), 200, 2),
        (None, httpx2.ReadError("x"), 1),
        (None, 503, 1),
        (httpx2.ConnectError("x"), httpx2.ReadError("x"), 2),
    ],
)
async def test_a_stream_is_not_sent_twice(
    clock: ManualClock, before: Exception | None, after: Exception | int, calls: int
) -> None:
    """Until its first byte was taken a stream can be tried again; from then on the result stands, even for a PUT."""
    for asynchronous in (False, True):
        inner, body = Streaming(before, after), Once()
        request = httpx2.Request("PUT", "http://shop.example/", stream=body)
        outcome: object
        try:
            if asynchronous:
                answer = await AsyncRetryTransport(inner, clock=clock).handle_async_request(request)
            else:
                answer = RetryTransport(inner, clock=clock).handle_request(request)
            outcome = answer.status_code
            report = answer.extensions.get(REPORT_EXTENSION)
        except httpx2.TransportError as error:
            outcome, report = error, report_of(error)
        assert (outcome, inner.calls, body.reads) == (after, calls, 1)
        assert report is None or "cannot be sent again" in report.explanation


def test_refusals_are_read_and_closed(sender: Sender) -> None:
    """Before the next attempt a refusal's body is read to its end if it is small, and its connection given back."""
    bodies = [Body([b"a", b"b"]), Body([b"x" * 1024] * 1000), Body([b"a"], breaks=True)]
    for body, read in zip(bodies, (2, 65, 1), strict=True):
        service = Service(httpx2.Response(503, stream=body), 200)
        assert sender.send(service).status_code == 200
        assert (body.read, body.closed) == (read, True)


def test_a_refusal_that_stands_in_the_end_keeps_its_body(sender: Sender, clock: ManualClock) -> None:
    """When the time is up during the wait, the answer before it is what the caller gets; a body too large is left out."""
    for parts, text in (([b"no", b"w"], "now"), ([b"x" * 70_000], "")):

        class Oversleeps(ManualClock):
            def sleep(self, seconds: float, /) -> None:
                super().sleep(seconds + 10)

        late = Sender(sender.asynchronous, Oversleeps())
        service = Service(httpx2.Response(503, headers={"X-Mark": "1", "Content-Length": "9"}, stream=Body(parts)), 200)
        with within(5, clock=late.clock):
            answer = late.send(service)
        assert (answer.status_code, answer.text, answer.headers["x-mark"]) == (503, text, "1")
        assert (len(service.requests), report_on(answer).reason) == (1, "deadline")
        assert ("content-length" in answer.headers) is bool(text)


# -- keys, deadline, context ---------------------------------------------------------------------------------------------


def test_a_key_is_made_once_and_kept(sender: Sender) -> None:
    """For methods that were named a key is made for each request, the same at all attempts; a caller's own stays."""
    rules = {"keyed": ("POST",)}
    service = Service(httpx2.ReadTimeout("x"), 502, 201, 201, 201, 201)
    sender.send(service, "POST", rules=rules)
    sender.send(service, "POST", rules=rules)
    sender.send(service, "POST", headers={"Idempotency-Key": "mine"}, rules=rules)
    sender.send(service, "PATCH", rules=rules)
    assert service.keys == ['"a"', '"a"', '"a"', '"b"', "mine", None]


def redirect(to: str, status: int = 307) -> httpx2.Response:
    return httpx2.Response(status, headers={"Location": to})


@pytest.mark.parametrize(
    ("to", "keeps"),
    [
        ("/elsewhere", True),
        ("http://shop.example:80/x", True),
        ("https://shop.example/x", True),
        ("http://other.example/x", False),
        ("http://shop.example:8080/x", False),
        ("https://shop.example:8443/x", False),
    ],
)
def test_a_key_stays_with_its_service(sender: Sender, to: str, keeps: bool) -> None:
    """A redirect takes the key along only to the same host and port (or its https); the trace and the name stay as well."""
    context = RequestContext(0.0)
    context.request_id, context.traceparent = "r1", f"00-{'1' * 32}-{'2' * 16}-01"
    for headers in ({}, {"Idempotency-Key": "mine"}):
        service = Service(redirect(to), 200)
        token = CURRENT.set(context)
        try:
            sender.send(
                service, "POST", headers=headers, follow_redirects=True, rules={"keyed": ("POST",)}, content=b"x"
            )
        finally:
            CURRENT.reset(token)
        before, after = service.requests
        assert before.headers["idempotency-key"]
        for name in ("idempotency-key", "traceparent", "x-request-id"):
            assert after.headers.get(name) == (before.headers[name] if keeps else None), name


def test_the_deadline_is_sent_and_bounds_every_step(sender: Sender) -> None:
    """The remaining time less the margin is in the header, no timeout is longer than it, and both shrink from try to try."""

    def take_time(_: httpx2.Request) -> httpx2.Response:
        sender.clock.advance(1)
        raise httpx2.ReadTimeout("x")

    service = Service(take_time, 200)
    with within(3, clock=sender.clock):
        sender.send(service, extensions={"timeout": {"connect": 0.5, "read": 10, "write": None, "pool": 2.5}})
    first, second = service.requests
    assert first.headers["x-request-timeout-ms"] == "2980"
    assert first.extensions["timeout"] == pytest.approx({"connect": 0.5, "read": 3, "write": 3, "pool": 2.5})
    left_s = second.extensions["timeout"]["read"]
    assert 1.9 < left_s < 2.0
    assert second.headers["x-request-timeout-ms"] == str(int((left_s - 0.02) * 1000))
    assert second.extensions["timeout"]["connect"] == 0.5


def test_without_a_deadline_nothing_is_said_of_time(sender: Sender) -> None:
    """No deadline, no header, and the caller's timeouts stay; another header can be named, or none."""
    service = Service(200)
    sender.send(service, extensions={"timeout": {"read": 7}})
    assert "x-request-timeout-ms" not in service.requests[0].headers
    assert service.requests[0].extensions["timeout"] == {"read": 7}
    for name, found in (("X-Left", True), (None, False)):
        service = Service(200)
        with within(1, clock=sender.clock):
            sender.send(service, rules={"timeout_header": name})
        assert ("x-left" in service.requests[0].headers) is found
        assert "x-request-timeout-ms" not in service.requests[0].headers


def test_nothing_is_sent_when_no_time_is_left(sender: Sender) -> None:
    """With no more than the margin left the call is refused here, and known not to have happened."""
    service = Service(200)
    with within(0.02, clock=sender.clock), pytest.raises(DeadlineExceeded) as caught:
        sender.send(service, "POST")
    assert service.requests == []
    report = report_of(caught.value)
    assert report is not None
    assert (report.attempts, report.reason, report.outcome) == (0, "deadline", Outcome.NOT_COMMITTED)


def test_no_wait_outlasts_the_deadline(sender: Sender) -> None:
    """A wait that does not fit is not begun: the failure is raised with time left, and the reason is the deadline."""
    policy = RetryPolicy({FailureClass.UNSENT: Allowance(9, Backoff(base=100, cap=100))})
    service = Service(httpx2.ConnectError("x"))
    with within(1, clock=sender.clock) as deadline, pytest.raises(httpx2.ConnectError) as caught:
        sender.send(service, rules={"policy": policy})
    assert not deadline.has_passed()
    report = report_of(caught.value)
    assert report is not None
    assert report.reason == "deadline"


def test_trace_and_name_of_the_current_request_go_along(sender: Sender) -> None:
    """They are sent on unless the caller set them, or the rules keep them to themselves."""
    context = RequestContext(0.0)
    context.request_id, context.traceparent, context.tracestate = "r1", f"00-{'1' * 32}-{'2' * 16}-01", "a=b"
    CURRENT.set(context)
    try:
        service = Service(200)
        sender.send(service)
        sender.send(service, headers={"traceparent": "mine", "x-request-id": "mine"})
        quiet = Service(200)
        sender.send(quiet, rules={"send_context": False})
    finally:
        CURRENT.set(None)
    names = ("traceparent", "tracestate", "x-request-id")
    sent = [[request.headers.get(name) for name in names] for request in (*service.requests, *quiet.requests)]
    assert sent == [[context.traceparent, "a=b", "r1"], ["mine", None, "mine"], [None, None, None]]


# -- one layer, breaker --------------------------------------------------------------------------------------------------


def test_an_outer_retry_layer_is_the_only_one(sender: Sender) -> None:
    """Inside another retry there is one attempt, and a retry around a transport that gave up does not begin again."""
    service = Service(httpx2.ConnectError("x"))
    with retry_layer(), pytest.raises(httpx2.ConnectError) as caught:
        sender.send(service)
    assert len(service.requests) == 1
    report = report_of(caught.value)
    assert report is not None
    assert report.reason == "nested"
    service = Service(httpx2.ConnectError("x"))
    outer = retry(on=httpx2.ConnectError, attempts=2, clock=sender.clock, budget=None)
    with pytest.raises(httpx2.ConnectError):
        outer.call(lambda: sender.send(service))
    assert len(service.requests) == 2


def test_a_breaker_opens_for_its_host_alone(sender: Sender) -> None:
    """A host that only fails is not called any more; another one is. The refusal names the host and what became of it."""

    def answer(request: httpx2.Request) -> httpx2.Response:
        return httpx2.Response(500 if request.url.host == "bad.example" else 200)

    service = Service(answer)
    for _ in range(20):
        assert sender.send(service, url="http://bad.example/x").status_code == 500
    with pytest.raises(BreakerOpen, match=r"bad\.example") as caught:
        sender.send(service, "POST", url="http://bad.example/x")
    report = report_of(caught.value)
    assert report is not None
    assert (report.attempts, report.outcome) == (0, Outcome.NOT_COMMITTED)
    assert sender.send(service, url="http://good.example/x").status_code == 200
    assert len(service.requests) == 21


def test_a_breaker_that_opens_between_two_attempts_ends_the_call(sender: Sender, clock: ManualClock) -> None:
    """What was sent may have been done, so the error of the attempt stays the answer, not the breaker's refusal."""
    service = Service(httpx2.ReadError("x"))
    rules = {"breaker": lambda host: CircuitBreaker(host, calls_min=1, clock=clock)}
    with pytest.raises(httpx2.ReadError) as caught:
        sender.send(service, "PUT", rules=rules)
    report = report_of(caught.value)
    assert report is not None
    assert (len(service.requests), report.attempts, report.outcome) == (1, 1, Outcome.UNKNOWN)
    assert "breaker" in report.explanation


@pytest.mark.parametrize("harmless", [httpx2.PoolTimeout("x"), 429, 404, httpx2.LocalProtocolError("x")])
def test_what_is_not_the_hosts_fault_opens_no_breaker(sender: Sender, harmless: Step) -> None:
    """Waiting for one's own pool, being sent away, and errors of one's own leave the circuit closed."""
    made: list[CircuitBreaker] = []

    def make(host: str) -> CircuitBreaker:
        made.append(CircuitBreaker(host, calls_min=1, clock=sender.clock))
        return made[0]

    service = Service(harmless)
    for _ in range(3):
        with contextlib.suppress(httpx2.TransportError):
            sender.send(service, rules={"breaker": make, "policy": RetryPolicy.never()})
    assert [breaker.state for breaker in made] == [BreakerState.CLOSED]


def test_hosts_with_a_breaker_are_bounded(clock: ManualClock) -> None:
    """Beyond the bound the one that was not called for the longest time goes, a closed one first; an open one stays."""
    made: list[str] = []

    def make(host: str) -> CircuitBreaker:
        made.append(host)
        return CircuitBreaker(host, clock=clock)

    breakers = HostBreakers(make, 3)
    breakers.of("a").force_open()
    for host in ("b", "c", "b", "d"):  # c goes
        breakers.of(host)
    for number in range(1000):
        breakers.of(f"host{number}")
        assert len(breakers) == 3
    assert breakers.of("a").state is BreakerState.FORCED_OPEN
    made.clear()
    breakers.of("host999")
    breakers.of("c")
    assert made == ["c"]
    full = HostBreakers(make, 1)
    full.of("x").force_open()
    assert full.of("y").state is BreakerState.CLOSED
    assert len(full) == 1


async def test_an_error_is_gone_when_nobody_holds_it(clock: ManualClock) -> None:
    """What was raised is in no circle of references, which would keep its connection until the collector comes."""

    def fail(request: httpx2.Request) -> httpx2.Response:
        raise httpx2.ReadError("x")

    request, inner = httpx2.Request("PUT", "http://shop.example/"), httpx2.MockTransport(fail)
    sync, asynchronous = RetryTransport(inner, clock=clock), AsyncRetryTransport(inner, clock=clock)
    gc.collect()
    gc.disable()
    try:
        for deadline_s in (None, 60):
            with contextlib.nullcontext() if deadline_s is None else within(deadline_s, clock=clock):
                seen: list[weakref.ref[httpx2.ReadError]] = []
                try:
                    sync.handle_request(request)
                except httpx2.ReadError as error:
                    seen.append(weakref.ref(error))
                try:
                    await asynchronous.handle_async_request(request)
                except httpx2.ReadError as error:
                    seen.append(weakref.ref(error))
                assert [reference() for reference in seen] == [None, None]
    finally:
        gc.enable()


# -- secrets, clients ----------------------------------------------------------------------------------------------------


def test_secrets_stay_out_of_everything(sender: Sender, caplog: pytest.LogCaptureFixture) -> None:
    """Authorization, key, query, path and password are in no event, report, error or log line of ours or of httpx2's."""
    caplog.set_level(logging.DEBUG)
    client(transport=httpx2.MockTransport(Service(200))).close()  # hides queries, as every client of ours does
    url = f"http://user:{SECRET}@shop.example/{SECRET}?token={SECRET}"
    headers = {"Authorization": f"Bearer {SECRET}", "Idempotency-Key": SECRET}
    seen: list[object] = []
    for step in (503, httpx2.ReadError("x"), 200):
        try:
            answer = sender.send(Service(step), "POST", url, headers=headers)
            seen.append(answer.extensions.get(REPORT_EXTENSION))
        except httpx2.TransportError as error:
            seen += [error, report_of(error), getattr(error, "__notes__", None)]
    with within(0, clock=sender.clock), pytest.raises(DeadlineExceeded) as late:
        sender.send(Service(200), "POST", url, headers=headers)
    with pytest.raises(BreakerOpen) as refused:
        sender.send(Service(200), "POST", url, headers=headers, rules={"breaker": opened})
    seen += [late.value, report_of(late.value), refused.value, report_of(refused.value), *sender.hook.events]
    assert len(sender.hook.events) > 8
    assert SECRET not in " ".join(f"{thing} {thing!r}" for thing in seen)
    # The path is httpx2's to log; a secret does not belong there, and nobody could tell it from a word.
    lines = [record.getMessage().replace(f"example/{SECRET}", "example/path") for record in caplog.records]
    assert any("http://shop.example/path?..." in line for line in lines)
    assert not any(SECRET in line for line in lines)


def opened(host: str) -> CircuitBreaker:
    breaker = CircuitBreaker(host)
    breaker.force_open()
    return breaker


async def test_clients_have_the_transport_in_place() -> None:
    """Both helpers make clients that try again, with timeouts at every step."""
    rules = CallRules(policy=RetryPolicy({FailureClass.UNSENT: Allowance(2, Backoff(base=0, cap=0))}))
    service = Service(httpx2.ConnectError("x"), 200)
    with client(base_url="http://shop.example", rules=rules, transport=httpx2.MockTransport(service)) as sync:
        assert sync.get("/a").status_code == 200
        assert None not in sync.timeout.as_dict().values()
    service.steps = [httpx2.ConnectError("x"), 200]
    inner = httpx2.MockTransport(service)
    async with async_client(base_url="http://shop.example", rules=rules, transport=inner) as sender:
        assert (await sender.get("/a")).status_code == 200
    assert len(service.requests) == 4
    with client() as sync:
        assert isinstance(sync._transport, RetryTransport)


def test_a_missing_package_names_the_command_that_installs_it() -> None:
    """Without httpx2 the import fails with the cure."""
    without = (
        "import importlib.util as util; found = util.find_spec;"
        "util.find_spec = lambda name, *rest: None if name == 'httpx2' else found(name, *rest);"
        "import holdfast.ext.httpx2"
    )
    done = subprocess.run([sys.executable, "-c", without], capture_output=True, text=True, check=False)
    assert "MissingExtra: holdfast.ext.httpx2 needs httpx2: pip install 'holdfast[httpx2]'" in done.stderr
