"""Every request has a deadline that everything inside sees, and a client who has gone takes its work along."""

from __future__ import annotations

import asyncio
import contextlib
import math
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from holdfast.asgi.admission import ConcurrencyLimit
from holdfast.asgi.context import context_of
from holdfast.asgi.deadline import Deadline, parse_grpc_timeout, parse_milliseconds, time_allowed_s
from holdfast.asgi.headers import MalformedHeader
from holdfast.asgi.interface import Message, Receive, Scope, Send
from holdfast.asgi.recovery import Recovery
from holdfast.asgi.request_id import RequestId
from holdfast.asgi.stack import Stack
from holdfast.deadline import current_deadline, within
from holdfast.errors import BlockTimedOut, ConfigurationError, OutcomeUnknown, Report, attach_report
from holdfast.outcome import Outcome
from holdfast.testing import ManualClock
from tests.asgi.asgi_calls import Answer, Connection, Echo, answering, call, http_scope, until

SOON = 0.01
"""Seconds: a time that passes at once. No test depends on how late it is noticed."""


# ---------------------------------------------------------------------------------------------------- reading the headers


@pytest.mark.parametrize(
    ("value", "expected_s"),
    [(b"0", 0), (b"1", 0.001), (b"2500", 2.5), (b"0000000001", 0.001), (b"9999999999", 9999999.999)],
)
def test_milliseconds(value: bytes, expected_s: float) -> None:
    """1 to 10 digits."""
    assert parse_milliseconds(value) == expected_s


@pytest.mark.parametrize(
    ("value", "expected_s"),
    [(b"1H", 3600), (b"2M", 120), (b"3S", 3), (b"250m", 0.25), (b"10u", 1e-5), (b"5n", 5e-9), (b"99999999S", 99999999)],
)
def test_grpc_timeout(value: bytes, expected_s: float) -> None:
    """1 to 8 digits and a unit."""
    assert parse_grpc_timeout(value) == pytest.approx(expected_s)


NOT_NUMBERS = [
    b"",
    b"-1",
    b"+1",
    b"1.5",
    b"1e3",
    b" 1",
    b"1 ",
    b"0x1",
    b"\xb2",
    b"1_0",
    b"nan",
    b"inf",
    b"9" * 100_000,
    b"1\n",
]


@pytest.mark.parametrize("value", [*NOT_NUMBERS, b"12345678901", b"1S"])
def test_planted_milliseconds_are_refused(value: bytes) -> None:
    """Anything but digits, and too many of them."""
    with pytest.raises(MalformedHeader):
        parse_milliseconds(value)


@pytest.mark.parametrize(
    "value", [*(number + b"S" for number in NOT_NUMBERS), b"1", b"S", b"1s", b"123456789S", b"1\xff"]
)
def test_planted_grpc_timeouts_are_refused(value: bytes) -> None:
    """Anything but digits and one of the six letters, and too many of them."""
    with pytest.raises(MalformedHeader):
        parse_grpc_timeout(value)


@given(st.binary(max_size=12))
def test_a_timeout_is_a_number_or_refused(value: bytes) -> None:
    """Any bytes give finite seconds, 0 or more, or `MalformedHeader`."""
    for parse in (parse_milliseconds, parse_grpc_timeout):
        with contextlib.suppress(MalformedHeader):
            assert 0 <= parse(value) < math.inf


def test_the_least_counts() -> None:
    """Of the three headers and the maximum."""
    headers = [
        (b"x-request-timeout-ms", b"3000"),
        (b"grpc-timeout", b"2S"),
        (b"x-envoy-expected-rq-timeout-ms", b"1000"),
    ]
    assert time_allowed_s(headers, 10) == 1
    assert time_allowed_s(headers[:2], 10) == 2
    assert time_allowed_s(headers[:1], 10) == 3
    assert time_allowed_s(headers, 0.5) == 0.5
    assert time_allowed_s([(b"x-other", b"1")], 10) == 10


# ------------------------------------------------------------------------------------------------------------ the deadline


async def test_everything_inside_sees_it() -> None:
    """The context variable that `within` sets, and the request's context; from when the request was seen."""
    clock = ManualClock()
    seen: list[float] = []

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        for deadline in (current_deadline(), context_of(scope).deadline):
            assert deadline is not None
            seen.append(deadline.remaining_s())
        await answering()(scope, receive, send)

    async def slow_outside(scope: Scope, receive: Receive, send: Send) -> None:
        clock.advance(0.5)
        await Deadline(app, maximum=5, clock=clock)(scope, receive, send)

    layers = RequestId(slow_outside, clock=clock)
    await call(layers)
    await call(layers, headers={"X-Request-Timeout-Ms": "2000"})
    assert seen == pytest.approx([4.5, 4.5, 1.5, 1.5])
    assert current_deadline() is None


@pytest.mark.parametrize("outer_s, given_s", [(2, 2), (60, 5)])
async def test_a_deadline_outside_counts_by_its_own_clock(outer_s: float, given_s: float) -> None:
    """What is left decides which of the two is earlier, wherever their clocks stand."""
    seen: list[float] = []

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        deadline = current_deadline()
        assert deadline is not None
        seen.append(deadline.remaining_s())
        await answering()(scope, receive, send)

    for outer, own in ((5.0, 1e9), (1e9, 5.0)):
        with within(outer_s, clock=ManualClock(start=outer)):
            assert (await call(Deadline(app, maximum=5, clock=ManualClock(start=own)))).status == 200
    assert seen == [given_s] * 2


@pytest.mark.parametrize("headers", [[(b"grpc-timeout", b"soon-s3cret")], [(b"x-request-timeout-ms", b"50")] * 2])
async def test_a_malformed_header_is_told(headers: list[tuple[bytes, bytes]]) -> None:
    """400 that names the header and the rule, not the value, and the application is not called."""
    echo = Echo()
    answer = await call(Deadline(echo), headers=headers)
    assert (answer.status, echo.calls) == (400, 0)
    assert headers[0][0].decode() in answer.json["detail"]
    assert "s3cret" not in answer.body.decode()


async def test_too_little_time_is_refused_before_anything_is_touched() -> None:
    """Below the floor, or used up by what stands outside: 504, nothing was applied."""
    clock = ManualClock()
    echo = Echo()
    layer = Deadline(echo, floor=0.02, clock=clock)
    answer = await call(layer, headers={"X-Request-Timeout-Ms": "19"})
    assert (answer.status, answer.json["outcome"], echo.calls) == (504, "not_committed", 0)

    async def slow_outside(scope: Scope, receive: Receive, send: Send) -> None:
        clock.advance(10)
        await layer(scope, receive, send)

    assert (await call(RequestId(slow_outside, clock=clock))).status == 504
    assert (await call(Deadline(echo, floor=0), headers={"X-Request-Timeout-Ms": "0"})).status == 504
    assert echo.calls == 0


class Hanging:
    """An application that works until it is cancelled.

    Attributes:
        began: set when it works.
        cancelled: how often it was cancelled.
    """

    def __init__(
        self, *, raising: BaseException | None = None, report: Report | None = None, begun: bool = False
    ) -> None:
        self.began = asyncio.Event()
        self.cancelled = 0
        self._raising = raising
        self._report = report
        self._begun = begun

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if self._begun:
            await send({"type": "http.response.start", "status": 200, "headers": []})
        try:
            self.began.set()
            await asyncio.Event().wait()
        except asyncio.CancelledError as error:
            self.cancelled += 1
            if self._raising is not None:
                raise self._raising from None
            if self._report is not None:
                attach_report(error, self._report)
            raise


@pytest.mark.parametrize(("method", "outcome"), [("GET", None), ("POST", "unknown")])
async def test_at_the_deadline_the_work_is_cancelled(method: str, outcome: str | None) -> None:
    """504; for an unsafe method nobody can say that nothing was applied, or may invite to send it again without a key."""
    app = Hanging()
    answer = await call(Deadline(app, maximum=SOON, floor=0), method)
    assert (answer.status, app.cancelled) == (504, 1)
    assert answer.json.get("outcome") == outcome
    assert (answer.header("retry-after") is None) is (outcome == "unknown")


async def test_a_commit_under_way_is_told() -> None:
    """An operation cut while COMMIT was under way says so, and so does the answer, for any method."""
    report = Report("transfer", 1, 1.0, "deadline", Outcome.UNKNOWN)
    answer = await call(Deadline(Hanging(report=report), maximum=SOON, floor=0))
    assert (answer.status, answer.json["outcome"]) == (504, "unknown")
    assert answer.json["type"].endswith("outcome-unknown")


@pytest.mark.parametrize(("applied", "outcome"), [(False, "not_committed"), (True, "unknown")])
async def test_an_operation_cut_before_its_commit_is_told(applied: bool, outcome: str) -> None:
    """Nothing was applied, for any method; unless the request had done something before that stands."""
    hanging = Hanging(report=Report("transfer", 1, 1.0, "deadline", Outcome.NOT_COMMITTED))

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        context_of(scope).applied = applied
        await hanging(scope, receive, send)

    answer = await call(Deadline(app, maximum=SOON, floor=0), "POST")
    assert (answer.status, answer.json["outcome"]) == (504, outcome)
    assert ("Nothing was applied" in answer.json["detail"]) is not applied


async def test_an_operation_that_knows_its_outcome_is_believed() -> None:
    """`DeadlineExceeded` and `OutcomeUnknown` from inside are answered with what they say."""
    answer = await call(Deadline(Hanging(raising=OutcomeUnknown()), maximum=SOON, floor=0), "POST")
    assert (answer.status, answer.json["outcome"]) == (504, "unknown")


async def test_an_answer_that_was_begun_is_not_begun_again() -> None:
    """The error goes on outwards, where the connection is ended."""
    answer = await call(Deadline(Hanging(begun=True), maximum=SOON, floor=0))
    assert isinstance(answer.error, BlockTimedOut)
    assert answer.status == 200


async def test_a_long_lived_path_has_no_maximum() -> None:
    """Only what a header says."""
    seen: list[Any] = []

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        seen.append(current_deadline())
        await answering()(scope, receive, send)

    layer = Deadline(app, long_lived=("/events",))
    await call(layer, path="/events/1")
    await call(layer, path="/events/1", headers={"X-Request-Timeout-Ms": "500"})
    await call(layer, path="/other")
    assert seen[0] is None
    assert seen[1].remaining_s() <= 0.5
    assert seen[2].remaining_s() <= 10


async def test_a_cancellation_from_outside_stays_one() -> None:
    """The server's own is not mistaken for ours."""
    app = Hanging()
    connection = Connection(http_scope())
    task = connection.start(Deadline(app))
    await app.began.wait()
    task.cancel()
    answer = await connection.answer()
    assert isinstance(answer.error, asyncio.CancelledError)
    assert answer.messages == []


@pytest.mark.parametrize(
    "wrong",
    [{"maximum": 0}, {"floor": 10}, {"long_lived": "/x"}, {"long_lived": ["x"]}, {"notice_after": 0}, {"maximum": -1}],
)
def test_settings_that_cannot_work_are_refused(wrong: dict[str, Any]) -> None:
    """Bounds are held where the settings are given."""
    with pytest.raises(ConfigurationError):
        Deadline(answering(), **wrong)


# ------------------------------------------------------------------------------------------------- clients that hang up


def quick(app: Any) -> Deadline:
    """A layer that begins to listen at once."""
    return Deadline(app, notice_after=SOON)


async def quiet() -> None:
    """Nothing is left running but the test itself."""
    await until(lambda: len(asyncio.all_tasks()) == 1)


@pytest.mark.parametrize("body", [[], [b""], [b"the whole body"]], ids=["no message", "empty", "whole"])
async def test_a_client_that_hangs_up_cancels_the_work(body: list[bytes]) -> None:
    """Whether its body was read or not; nobody is answered, and the task is as it was before."""
    app = Hanging()
    connection = Connection(http_scope("POST"))
    for piece in body:
        connection.push(piece)
    cancelling: list[int] = []

    async def outside(scope: Scope, receive: Receive, send: Send) -> None:
        await quick(app)(scope, receive, send)
        task = asyncio.current_task()
        assert task is not None
        cancelling.append(task.cancelling())

    connection.start(outside)
    await app.began.wait()
    connection.hang_up()
    answer = await connection.answer()
    assert (answer.messages, answer.error, app.cancelled, cancelling) == ([], None, 1, [0])
    assert connection.scope["state"]["holdfast"].exchange.disconnected
    await quiet()


async def test_the_listener_steals_nothing_from_a_body_that_streams() -> None:
    """An application that takes its time between pieces gets every one of them, in order."""
    pieces = [b"%d" % number for number in range(10)]
    connection = Connection(http_scope("POST"))
    taken: list[bytes] = []

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        more = True
        while more:
            heard_before = connection.received
            # Works until the listener has heard the next piece, so that it must come from there.
            if len(taken) % 2 == 0 and len(taken) < len(pieces):
                await until_heard(heard_before)
            message = await receive()
            taken.append(message["body"])
            more = message["more_body"]
        await answering()(scope, receive, send)

    async def until_heard(before: int) -> None:
        async with asyncio.timeout(30):
            while connection.received == before:  # noqa: ASYNC110 - the listener begins by a timer
                await asyncio.sleep(SOON)  # noqa: TID251 - see above

    for number, piece in enumerate(pieces, start=1):
        connection.push(piece, more=number < len(pieces))
    connection.start(quick(app))
    answer = await connection.answer()
    assert answer.error is None
    assert taken == pieces
    await quiet()


async def test_of_an_unread_body_one_piece_is_kept() -> None:
    """An application that does not read does not make the service read on for it: what comes stays at the server."""
    app = Hanging()
    connection = Connection(http_scope("POST"))
    for _ in range(50):
        connection.push(b"x" * 65536, more=True)
    task = connection.start(quick(app))
    async with asyncio.timeout(30):
        while not connection.received:  # noqa: ASYNC110 - the listener begins by a timer
            await asyncio.sleep(SOON)  # noqa: TID251 - see above
        await asyncio.sleep(5 * SOON)  # noqa: TID251 - and would have gone on by now
    assert connection.received == 1
    task.cancel()
    await connection.answer()
    await quiet()


@pytest.mark.parametrize("heard_by", ["the listener", "the application"])
async def test_an_application_that_listens_is_told_and_not_cancelled(heard_by: str) -> None:
    """It hears of it itself, whether or not somebody listened already when it began to, as often as it asks; and works on."""
    told: list[str] = []

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        async with asyncio.timeout(30):
            while heard_by == "the listener" and not connection.received:  # noqa: ASYNC110 - see below
                await asyncio.sleep(SOON)  # noqa: TID251 - the listener begins by a timer
        told.append((await receive())["type"])
        listening.set()
        told.append((await receive())["type"])
        told.append((await receive())["type"])
        await asyncio.sleep(5 * SOON)  # noqa: TID251 - time for the listener to make a mistake
        told.append("worked on")

    listening = asyncio.Event()
    connection = Connection(http_scope())
    connection.push(b"")
    connection.start(quick(app))
    await listening.wait()
    connection.hang_up()
    answer = await connection.answer()
    assert answer.error is None
    assert told == ["http.request", "http.disconnect", "http.disconnect", "worked on"]
    await quiet()


async def test_an_application_that_stops_waiting_loses_no_message() -> None:
    """A `receive` that is cancelled while somebody else listens takes nothing with it."""
    taken: list[bytes] = []

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        for _ in range(3):
            with pytest.raises(TimeoutError):
                async with asyncio.timeout(3 * SOON):  # long enough for the listener to have begun in between
                    await receive()
            await asyncio.sleep(3 * SOON)  # noqa: TID251 - so that it is the listener who hears the next message
        connection.push(b"late")
        taken.append((await receive())["body"])
        await answering()(scope, receive, send)

    connection = Connection(http_scope("POST"))
    connection.start(quick(app))
    answer = await connection.answer()
    assert answer.error is None
    assert taken == [b"late"]
    await quiet()


async def test_work_after_a_complete_answer_is_not_cancelled() -> None:
    """Servers say `http.disconnect` also then; background work goes on."""
    done: list[int] = []

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await answering()(scope, receive, send)
        await asyncio.sleep(5 * SOON)  # noqa: TID251 - the listener begins by a timer
        done.append(connection.received)

    connection = Connection(http_scope())
    connection.start(quick(app))
    answer: Answer = await connection.answer()
    assert answer.complete
    assert answer.error is None
    assert done == [1]  # it was heard, and nothing came of it
    await quiet()


async def test_a_client_that_does_not_take_the_last_piece_is_cut_at_the_deadline() -> None:
    """The server waits until there is room for it; the request, and its permit, would be held for as long as the client likes."""
    sent: list[str] = []

    async def send(message: Message) -> None:
        if message["type"] == "http.response.body":
            await asyncio.Event().wait()
        sent.append(message["type"])

    limited = ConcurrencyLimit(answering(), limit=1)
    with pytest.raises(BlockTimedOut):
        await Deadline(limited, maximum=SOON, floor=0)(http_scope(), Connection({}).receive, send)
    assert (sent, limited.gate.in_flight) == (["http.response.start"], 0)
    await quiet()


async def test_an_application_that_swallows_the_cancellation_leaves_no_trace_of_it() -> None:
    """The task can be waited in afterwards, and a later cancellation is the later one's."""
    gone = asyncio.Event()

    async def swallowing(scope: Scope, receive: Receive, send: Send) -> None:
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            gone.set()

    async def outside(scope: Scope, receive: Receive, send: Send) -> None:
        await quick(swallowing)(scope, receive, send)
        task = asyncio.current_task()
        assert task is not None
        assert task.cancelling() == 0
        async with asyncio.timeout(30):
            await gone.wait()

    connection = Connection(http_scope())
    connection.start(outside)
    connection.hang_up()
    assert (await connection.answer()).error is None
    await quiet()


@pytest.mark.parametrize(
    "hanging",
    [
        Hanging(raising=OutcomeUnknown("it may have been applied")),
        Hanging(report=Report("transfer", 1, 1.0, "cancelled", Outcome.UNKNOWN)),
    ],
    ids=["raised", "reported"],
)
async def test_a_commit_under_way_when_the_client_left_is_kept_for_the_log(hanging: Hanging) -> None:
    """Nobody is answered, but the request's context says that the outcome is not known."""
    connection = Connection(http_scope("POST"))
    connection.start(Stack(hanging, RequestId, Recovery, quick))
    await hanging.began.wait()
    connection.hang_up()
    answer = await connection.answer()
    assert (answer.messages, answer.error) == ([], None)
    assert connection.scope["state"]["holdfast"].outcome == "unknown"


async def test_a_receive_that_fails_is_the_applications_to_hear() -> None:
    """What the server raises does not end a request that does not ask."""
    failed = asyncio.Event()

    async def receive() -> Any:
        failed.set()
        raise OSError("a server in trouble")

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await failed.wait()
        with pytest.raises(OSError):
            await receive()
        await answering()(scope, receive, send)

    connection = Connection(http_scope())
    await quick(app)(connection.scope, receive, connection.send)
    assert connection.so_far.status == 200
    await quiet()


async def test_one_timer_looks_after_all_requests() -> None:
    """However many are under way, the loop has one; each is looked at in its turn, and nobody stays behind."""
    layer = Deadline(Echo(), notice_after=SOON)
    connections = [Connection(http_scope("POST")) for _ in range(50)]
    loop = asyncio.get_running_loop()
    timers: list[object] = []
    call_at = loop.call_at

    def counted(when: float, callback: Any, *args: Any, **more: Any) -> asyncio.TimerHandle:
        timers.append(callback)
        return call_at(when, callback, *args, **more)

    loop.call_at = counted  # type: ignore[method-assign, assignment]
    try:
        tasks = [connection.start(layer) for connection in connections]
        await until(lambda: all(task is not None for task in tasks) and timers)
        assert len(timers) == 1
    finally:
        loop.call_at = call_at  # type: ignore[method-assign]
    for connection in connections:
        connection.hang_up()
    for connection in connections:
        await connection.answer()
    assert layer._watch is not None
    assert not layer._watch._works
