"""What goes wrong, as RFC 9457 problem documents: what happened, whether anything was applied, and what to do next.

    raise RateLimited(..., retry_after_s=2)         # anywhere inside: the recovery layer answers with problem_for(error)
    raise RequestRefused(Problem(403, "forbidden", "You may not do that"))
    await send_problem(send, problem, context)      # in a middleware

| what happened | status | |
|---|---|---|
| `Conflict` | 409 | the row exists already |
| `InProgress` | 409 | the same key is still at work; `Retry-After` |
| `KeyReused` | 422 | the key belongs to another request |
| `DataRejected` | 422 | the data breaks a rule |
| `RateLimited` | 429 | `Retry-After` |
| `Contended`, `Overloaded`, `Unavailable`, `Rejected`, `StorageExhausted` | 503 | nothing was applied; `Retry-After` |
| `DeadlineExceeded`, `BlockTimedOut` | 504 | the time was up; `Retry-After` |
| `OutcomeUnknown` | 504 | it may have been applied, and the same key settles it; `Retry-After` if the request had one |
| `NotLoaded` | 504 | it was applied, and the same key gets the answer; `Retry-After` |
| everything else | 500 | the log says why |

These speak of the operation that failed. A request may have done something before that stands (`holdfast.effects`); then its
document does not say that nothing was applied: `outcome` is `unknown`, and what would have been 429 or 503, which invite to send
anything again, is 504 `outcome-unknown`. To whoever sent no key, what may have been applied is answered without a `Retry-After`:
nothing may invite to send it again.

A document never holds a value, a key, a name of the schema or a stack trace; those are for the log.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from http import HTTPStatus
from types import MappingProxyType

from ..clock import Random, system_random
from ..errors import (
    BlockTimedOut,
    BulkheadFull,
    ConfigurationError,
    Conflict,
    Contended,
    DataRejected,
    DeadlineExceeded,
    HoldfastError,
    InProgress,
    KeyReused,
    LoadShed,
    NotCommitted,
    NotLoaded,
    OutcomeUnknown,
    Overloaded,
    RateLimited,
    Rejected,
    ResultNotSerializable,
    StatementRejected,
    StorageExhausted,
    Unavailable,
)
from ..outcome import Outcome
from .context import RequestContext
from .headers import header
from .interface import Headers, Message, Send

__all__ = [
    "MEDIA_TYPE",
    "TYPE_PREFIX",
    "Problem",
    "RequestRefused",
    "as_far_as_known",
    "problem_for",
    "problem_messages",
    "send_problem",
]

MEDIA_TYPE = "application/problem+json"
TYPE_PREFIX = "urn:holdfast:problem:"
"""What the code of a problem is put behind to make its `type`."""

_MEMBERS = frozenset({"type", "title", "status", "detail", "instance"})
_CONTENT_TYPE = (b"content-type", MEDIA_TYPE.encode())
# A problem is about one moment: a cache that kept it would go on refusing.
_NO_STORE = (b"cache-control", b"no-store")
_RETRY_AFTER_MAX_S = 86_400


@dataclass(frozen=True, slots=True)
class Problem:
    """One problem document, before it is sent. Immutable; share it freely.

    Attributes:
        status: the HTTP status, 400 to 599.
        code: a stable word for programs (`rate-limited`), the end of the document's `type`; lower case, digits and hyphens.
        title: what kind of problem it is, the same for all of its kind; default the code in words.
        detail: what it means for this caller and what to do; for people, and without any value of the request.
        retry_after_s: seconds after which another try may succeed, for `Retry-After` (rounded up); None: there is no telling.
        extensions: further members of the document; JSON values.
        headers: further headers of the response, made by `headers.header`.

    Raises:
        ConfigurationError: the status or the code is outside its bounds, or an extension has a standard member's name.
    """

    status: int
    code: str
    title: str = ""
    detail: str = ""
    retry_after_s: float | None = None
    extensions: Mapping[str, object] = field(default_factory=lambda: MappingProxyType({}))
    headers: tuple[tuple[bytes, bytes], ...] = ()

    def __post_init__(self) -> None:
        if not 400 <= self.status <= 599:
            raise ConfigurationError(f"a problem has a status of 400 to 599, not {self.status}")
        if not self.code or not self.code.isascii() or not self.code.replace("-", "").isalnum():
            raise ConfigurationError("a problem's code is made of letters, digits and hyphens")
        if not _MEMBERS.isdisjoint(self.extensions):
            raise ConfigurationError("an extension cannot be called type, title, status, detail or instance")
        if not self.title:
            object.__setattr__(self, "title", self.code.replace("-", " ").capitalize())

    def document(self, context: RequestContext | None = None) -> dict[str, object]:
        """The members of the document, with the ids in `context` as `request_id` and `trace_id`, as far as they are known."""
        members: dict[str, object] = {"type": TYPE_PREFIX + self.code, "title": self.title, "status": self.status}
        if self.detail:
            members["detail"] = self.detail
        members.update(self.extensions)
        if context is not None and context.request_id:
            members["request_id"] = context.request_id
        if context is not None and context.trace_id:
            members["trace_id"] = context.trace_id
        return members


class RequestRefused(Exception):
    """Raise it inside the application to answer with a problem of your own.

    Attributes:
        problem: what is answered.
    """

    def __init__(self, problem: Problem) -> None:
        super().__init__(problem)
        self.problem = problem

    def __str__(self) -> str:
        return f"{self.problem.status} {self.problem.code}"


_AGAIN = "Repeat the request, with the same Idempotency-Key if it had one."
_NOTHING = "Nothing was applied."
_SOMETHING = "Part of it may have been applied."
_SETTLES = "Repeat the request with the same Idempotency-Key: that settles it."
_LOOK = "Find out before you repeat it: without an Idempotency-Key that counts, it would be applied again."
_GETS = "Repeat the request with the same Idempotency-Key: that gets the answer."


def _known() -> dict[type[BaseException], Problem]:
    late = f"The time was up. {_NOTHING} {_AGAIN}"
    return {
        InProgress: Problem(409, "in-progress", "", f"A request with this key is still at work. {_AGAIN}", 1),
        Conflict: Problem(409, "conflict", "", f"It exists already. {_NOTHING}"),
        KeyReused: Problem(
            422, "key-reused", "", "The key belongs to another request. Use a new key for a new request."
        ),
        DataRejected: Problem(422, "data-rejected", "", f"The data breaks a rule. {_NOTHING}"),
        RateLimited: Problem(429, "rate-limited", "", f"Too many requests. {_NOTHING} {_AGAIN}", 1),
        Contended: Problem(503, "contended", "", f"Others were faster, every time. {_NOTHING} {_AGAIN}", 1),
        Overloaded: Problem(503, "overloaded", "", f"There is too much to do. {_NOTHING} {_AGAIN}", 5),
        LoadShed: Problem(503, "overloaded", "", f"There is too much to do. {_NOTHING} {_AGAIN}", 1),
        BulkheadFull: Problem(503, "overloaded", "", f"There is too much to do. {_NOTHING} {_AGAIN}", 1),
        Rejected: Problem(503, "unavailable", "", f"The service protects what it needs. {_NOTHING} {_AGAIN}", 2),
        Unavailable: Problem(503, "unavailable", "", f"What the service needs is away. {_NOTHING} {_AGAIN}", 2),
        StorageExhausted: Problem(503, "storage-exhausted", "", f"It could not be saved. {_NOTHING} {_AGAIN}", 60),
        NotCommitted: Problem(503, "not-committed", "", f"It could not be saved. {_NOTHING} {_AGAIN}", 5),
        DeadlineExceeded: Problem(504, "deadline-exceeded", "", late, 1),
        BlockTimedOut: Problem(504, "deadline-exceeded", "", f"The time was up. {_AGAIN}", 1),
        OutcomeUnknown: Problem(
            504,
            "outcome-unknown",
            "",
            f"The time was up, and it may have been applied. {_SETTLES}",
            1,
        ),
        NotLoaded: Problem(504, "not-loaded", "", f"It was applied, but the answer could not be made. {_GETS}", 1),
        StatementRejected: Problem(500, "internal", "", f"The service is set up wrongly. {_NOTHING}"),
        ResultNotSerializable: Problem(500, "internal", "", f"The service failed. {_NOTHING}"),
    }


_KNOWN = _known()
# Whoever reads them with a `Retry-After` takes the request for refused, and sends it again also without a key.
_INVITING = frozenset({HTTPStatus.TOO_MANY_REQUESTS, HTTPStatus.SERVICE_UNAVAILABLE})
_INTERNAL = Problem(500, "internal", "", "The service failed. Its log says why.")


def problem_for(error: BaseException) -> Problem:
    """What `error` means for the caller; pure.

    The class decides, never the text: that is for the log. The nearest class in the error's line of descent that the table
    above names speaks. `outcome` (`not_committed`, `unknown`) is added where the error states one.
    """
    # A task group wraps what its tasks raise; where that is one error, it is the one to speak of.
    while isinstance(error, BaseExceptionGroup) and len(error.exceptions) == 1:
        error = error.exceptions[0]
    if isinstance(error, RequestRefused):
        return error.problem
    kind = next((_KNOWN[line] for line in type(error).__mro__ if line in _KNOWN), _INTERNAL)
    if not isinstance(error, HoldfastError):
        return kind
    retry_after_s = kind.retry_after_s if error.retry_after_s is None else error.retry_after_s
    extensions = kind.extensions if error.outcome is None else {"outcome": error.outcome.value}
    return Problem(kind.status, kind.code, kind.title, kind.detail, retry_after_s, extensions, kind.headers)


def as_far_as_known(problem: Problem, context: RequestContext | None) -> Problem:
    """`problem` without the claim that nothing was applied, where something was done for the request that stands; pure."""
    if context is None or not context.applied:
        return problem
    outcome, detail = problem.extensions.get("outcome"), problem.detail
    if outcome != Outcome.NOT_COMMITTED.value and _NOTHING not in detail:
        return problem
    changed = replace(
        problem,
        detail=detail.replace(_NOTHING, _SOMETHING).replace(_AGAIN, _SETTLES),
        extensions={**problem.extensions, "outcome": Outcome.UNKNOWN.value},
    )
    if problem.status in _INVITING:
        changed = replace(changed, status=504, code=_KNOWN[OutcomeUnknown].code, title="")
    return changed


def problem_messages(
    problem: Problem, context: RequestContext | None = None, *, draw: Random = system_random
) -> tuple[Message, Message]:
    """The two ASGI messages that answer with `problem`.

    Args:
        problem: what to say, as far as that is known of the whole request.
        context: adds the ids of request and trace; its `problem` and `outcome` are set for the access log.
        draw: makes `Retry-After` of a 503 up to half longer, so that those refused together do not come back together. A 429
            is exact: its time is the caller's own.
    """
    problem = as_far_as_known(problem, context)
    if context is not None and not context.keyed and problem.extensions.get("outcome") == Outcome.UNKNOWN.value:
        problem = replace(problem, detail=problem.detail.replace(_SETTLES, _LOOK), retry_after_s=None)
    body = json.dumps(problem.document(context), separators=(",", ":")).encode()
    headers: Headers = [_CONTENT_TYPE, (b"content-length", b"%d" % len(body)), _NO_STORE, *problem.headers]
    if problem.retry_after_s is not None:
        wait_s = problem.retry_after_s
        if problem.status == HTTPStatus.SERVICE_UNAVAILABLE:
            wait_s *= 1 + draw() / 2
        # A day at most, also for what is no number: an error from anywhere may carry it, and answering must not fail.
        headers.append(
            header(b"retry-after", math.ceil(wait_s) if 0 <= wait_s <= _RETRY_AFTER_MAX_S else _RETRY_AFTER_MAX_S)
        )
    if context is not None:
        context.problem = problem.code
        outcome = problem.extensions.get("outcome")
        if isinstance(outcome, str):
            context.outcome = outcome
    return (
        {"type": "http.response.start", "status": problem.status, "headers": headers},
        {"type": "http.response.body", "body": body},
    )


async def send_problem(
    send: Send, problem: Problem, context: RequestContext | None = None, *, draw: Random = system_random
) -> None:
    """Answer with `problem`; nothing may have been sent before. The arguments are those of `problem_messages`."""
    start, body = problem_messages(problem, context, draw=draw)
    await send(start)
    await send(body)
