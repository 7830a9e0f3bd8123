"""What is said in the log of an error that ended a request: once, by whichever layer answers it.

    note_error(error, problem, context)         # before send_problem(...)

What is said stands in the table of `recovery`. A layer that answers an error says it itself: nobody further out hears of it.
"""

from __future__ import annotations

import logging

from ..errors import HoldfastError
from ..traces import trace_of
from .context import RequestContext
from .log_lines import capped, visible
from .problems import Problem, RequestRefused

__all__ = ["note_error", "note_passed_on"]

_log = logging.getLogger("holdfast.asgi.recovery")  # by one name, whoever says it: somebody may be listening there


def note_error(
    error: Exception, problem: Problem, context: RequestContext, *, gone: bool = False, answered: int | None = None
) -> None:
    """Log `error`, and keep for the access log what became of the work.

    Args:
        error: what the application, or the layer, raised.
        problem: what it is answered with, as far as that is known of the whole request.
        context: the request's.
        gone: nobody is answered, because the client is gone.
        answered: the status of an answer that was begun before.
    """
    outcome = problem.extensions.get("outcome")
    if isinstance(outcome, str):
        context.outcome = outcome
    kind = type(error).__name__
    if gone:
        _log.info("request %s: the client is gone; %s ended the work", context.request_id or "-", kind)
    elif isinstance(error, RequestRefused) or (isinstance(error, HoldfastError) and problem.status != 500):
        words = "ended with" if answered is None else "was answered before this by"
        status = problem.status if answered is None else answered
        # Whoever was told that all is well will not come again: somebody else has to see to it.
        level = logging.ERROR if answered is not None and answered < 400 else logging.INFO
        text = visible(capped(str(error)))
        _log.log(level, "request %s %s %d: %s: %s", context.request_id or "-", words, status, kind, text)
    else:
        _log.error("request %s failed\n%s", context.request_id or "-", trace_of(error, RequestRefused))


def note_passed_on(error: Exception, context: RequestContext) -> None:
    """Log that `error` is for somebody further out, who raised it."""
    kind = type(error).__name__
    _log.info(
        "request %s ended with %s, which was raised further out and is passed on", context.request_id or "-", kind
    )
