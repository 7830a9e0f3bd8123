"""Problem documents say what the caller may know, and every error has one."""

from __future__ import annotations

import pytest

from holdfast import errors
from holdfast.asgi.context import RequestContext
from holdfast.asgi.deadline import Deadline
from holdfast.asgi.interface import Scope, Send
from holdfast.asgi.problems import (
    MEDIA_TYPE,
    Problem,
    RequestRefused,
    as_far_as_known,
    problem_for,
    problem_messages,
    send_problem,
)
from holdfast.asgi.recovery import Recovery
from holdfast.asgi.request_id import RequestId
from holdfast.asgi.stack import Stack
from holdfast.effects import note_applied
from holdfast.errors import HoldfastError
from holdfast.outcome import Outcome
from tests.asgi.asgi_calls import Answer, call

SECRET = "s3cret-value"

STATUSES = {
    "AccessDenied": 500,
    "BlockTimedOut": 504,
    "BreakerOpen": 503,
    "BulkheadFull": 503,
    "CheckViolation": 422,
    "ConfigurationError": 500,
    "Conflict": 409,
    "Contended": 503,
    "DataRejected": 422,
    "DeadlineExceeded": 504,
    "DrillFailed": 500,
    "ForeignKeyViolation": 422,
    "ForeignTransaction": 500,
    "HoldfastError": 500,
    "InProgress": 409,
    "InvalidData": 422,
    "KeyReused": 422,
    "LoadShed": 503,
    "MissingExtra": 500,
    "NoWriter": 503,
    "NotCommitted": 503,
    "NotLoaded": 504,
    "OutcomeUnknown": 504,
    "Overloaded": 503,
    "RateLimited": 429,
    "Rejected": 503,
    "ResultNotSerializable": 500,
    "SchemaMismatch": 500,
    "StatementRejected": 500,
    "StorageExhausted": 503,
    "Unavailable": 503,
    "UsageError": 500,
}


def every_error() -> list[type[HoldfastError]]:
    """Every class of the tree."""
    found = [getattr(errors, name) for name in errors.__all__]
    return [one for one in found if isinstance(one, type) and issubclass(one, HoldfastError)]


@pytest.mark.parametrize("error_class", every_error(), ids=lambda one: one.__name__)
def test_every_error_has_its_status_and_tells_nothing_else(error_class: type[HoldfastError]) -> None:
    """Each class of the tree has the status drawn above; its text stays inside."""
    error = error_class(f"the key {SECRET} in table users")
    problem = problem_for(error)
    document = repr(problem.document())
    assert problem.status == STATUSES[error_class.__name__]
    assert SECRET not in document
    assert "users" not in document
    assert problem.extensions.get("outcome") == (error.outcome.value if error.outcome else None)


@pytest.mark.parametrize("error_class", every_error(), ids=lambda one: one.__name__)
def test_the_time_to_wait_is_the_errors_own_or_a_default(error_class: type[HoldfastError]) -> None:
    """Where repeating may help there is always a `Retry-After`, and the error's own time wins."""
    problem = problem_for(error_class("x"))
    if problem.status in {429, 503, 504}:
        assert problem.retry_after_s
    assert problem_for(error_class("x", retry_after_s=17)).retry_after_s == 17


def test_what_is_unknown_is_internal() -> None:
    """Any other error is a 500 without a word about it."""
    assert problem_for(ValueError(SECRET)).document() == {
        "type": "urn:holdfast:problem:internal",
        "title": "Internal",
        "status": 500,
        "detail": "The service failed. Its log says why.",
    }


def test_a_refusal_carries_its_own_problem() -> None:
    """`RequestRefused` answers with what it was given, and its text holds status and code alone."""
    problem = Problem(403, "forbidden", "", SECRET)
    assert problem_for(RequestRefused(problem)) is problem
    assert str(RequestRefused(problem)) == "403 forbidden"


@pytest.mark.parametrize(
    "wrong",
    [
        {"status": 200, "code": "x"},
        {"status": 600, "code": "x"},
        {"status": 400, "code": ""},
        {"status": 400, "code": "a\r\nb"},
        {"status": 400, "code": "x", "extensions": {"status": 1}},
    ],
)
def test_a_problem_that_cannot_be_is_refused(wrong: dict[str, object]) -> None:
    """Bounds are held where a problem is made."""
    with pytest.raises(errors.ConfigurationError):
        Problem(**wrong)  # type: ignore[arg-type]


@pytest.mark.parametrize("keyed", [True, False])
@pytest.mark.parametrize("applied", [True, False])
def test_what_may_have_been_applied_is_repeated_with_a_key_alone(keyed: bool, applied: bool) -> None:
    """Whoever sent one is told when to come again; whoever sent none is told to look first, and nothing invites him."""
    context = RequestContext(0.0)
    context.keyed, context.applied = keyed, applied
    problem = problem_for(errors.Contended("x") if applied else errors.OutcomeUnknown("x"))
    start, body = problem_messages(problem, context)
    assert (start["status"], b'"outcome":"unknown"' in body["body"]) == (504, True)
    assert (b"retry-after" in dict(start["headers"])) is keyed
    assert (b"that settles it" in body["body"], b"Find out" in body["body"]) == (keyed, not keyed)


async def test_the_answer_is_a_problem_document() -> None:
    """Media type, length, no caching, `Retry-After`, the further headers and the request's id are there."""
    context = RequestContext(0.0)
    context.request_id, context.trace_id = "r-1", "0af7651916cd43dd8448eb211c80319c"
    problem = Problem(429, "rate-limited", retry_after_s=1.2, headers=((b"x-limit", b"3"),))

    async def app(_scope: object, _receive: object, send: object) -> None:
        await send_problem(send, problem, context)  # type: ignore[arg-type]

    answer: Answer = await call(app)
    assert answer.status == 429
    assert answer.header("content-type") == MEDIA_TYPE
    assert answer.header("content-length") == str(len(answer.body))
    assert answer.header("cache-control") == "no-store"
    assert answer.header("retry-after") == "2"
    assert answer.header("x-limit") == "3"
    assert (answer.json["request_id"], answer.json["trace_id"]) == (context.request_id, context.trace_id)
    assert context.problem == "rate-limited"


def _retry_after(problem: Problem, draw: float) -> bytes:
    start, _ = problem_messages(problem, draw=lambda: draw)
    headers: dict[bytes, bytes] = dict(start["headers"])
    return headers[b"retry-after"]


def test_those_refused_together_do_not_come_back_together() -> None:
    """`Retry-After` of a 503 is spread by the draw; that of a 429 is exact; nonsense is a day."""
    assert [_retry_after(Problem(503, "x", retry_after_s=10), draw) for draw in (0, 0.99)] == [b"10", b"15"]
    assert _retry_after(Problem(429, "x", retry_after_s=10), 0.99) == b"10"
    assert {
        _retry_after(Problem(429, "x", retry_after_s=wait_s), 0) for wait_s in (float("nan"), float("inf"), -1)
    } == {b"86400"}


def applied() -> RequestContext:
    """The context of a request that has committed something."""
    context = RequestContext(0.0)
    context.applied = True
    return context


@pytest.mark.parametrize("error_class", every_error(), ids=lambda one: one.__name__)
async def test_what_stands_is_not_denied(error_class: type[HoldfastError]) -> None:
    """After a commit no document says that nothing was applied, and none invites to send the request again without a key."""

    async def app(scope: object, receive: object, send: Send) -> None:
        await send_problem(send, problem_for(error_class("x")), context)

    context = applied()
    answer = await call(app)
    assert "Nothing was applied" not in answer.body.decode()
    assert answer.json.get("outcome") != "not_committed"
    assert context.outcome != "not_committed"
    assert answer.status not in {429, 503}
    if error_class("x").outcome is Outcome.NOT_COMMITTED:
        assert answer.json["outcome"] == context.outcome == "unknown"
    if STATUSES[error_class.__name__] == 503:
        assert (answer.status, answer.json["type"]) == (504, "urn:holdfast:problem:outcome-unknown")


def test_a_problem_without_that_claim_stays() -> None:
    """What the application says by itself is its own word."""
    problem = Problem(503, "closed", detail="We open at nine.", retry_after_s=60)
    assert as_far_as_known(problem, applied()) is problem
    assert as_far_as_known(problem_for(errors.Contended("x")), RequestContext(0.0)).status == 503


@pytest.mark.parametrize("error_class", [errors.BreakerOpen, errors.DeadlineExceeded], ids=lambda one: one.__name__)
async def test_a_commit_before_the_failure_is_told(error_class: type[HoldfastError]) -> None:
    """A save that stands, then a call that was not even sent: the request's outcome is not the call's."""

    async def app(scope: Scope, receive: object, send: object) -> None:
        note_applied()
        raise error_class("x")

    answer = await call(Stack(app, RequestId, Recovery, Deadline), "POST")
    assert (answer.status, answer.json["outcome"]) == (504, "unknown")
    assert "may have been applied" in answer.json["detail"]
