"""Whose error is it? The transaction function's own, the database's, or one that puts the whole server in doubt. Pure."""

from __future__ import annotations

from typing import TYPE_CHECKING

from sqlalchemy import exc

from ...dialects import classify
from ...errors import Rejected
from ...outcome import Failure, FailureClass, Stage
from .address import server_of

if TYPE_CHECKING:
    from .engines import Endpoint

__all__ = ["NO_CONNECTION_LEFT", "doubts_connection", "doubts_server", "leaves_connection", "with_server"]

_SERVER_MAY_BE_GONE = frozenset(
    {FailureClass.UNSENT, FailureClass.LOST, FailureClass.AMBIGUOUS, FailureClass.ROLE_CHANGED}
)
NO_CONNECTION_LEFT = frozenset({1040, 1203, 1226, "53300"})
"""A server that has no connection left for us, or for anybody. The pool waits for one of ours to come back, if one is out."""


def doubts_server(error: BaseException, failure: Failure) -> bool:
    """Whether the failure may mean that the server is gone, so that it is asked for a sign of life."""
    return (
        failure.failure_class in _SERVER_MAY_BE_GONE
        and not isinstance(error, (Rejected, exc.TimeoutError))  # of ours, and of the pool
    )


def with_server(failure: Failure, error: BaseException, endpoint: Endpoint) -> Failure:
    """`failure`, with the server's name where it is that it could not be reached."""
    if failure.failure_class is not FailureClass.UNSENT or not doubts_server(error, failure):
        return failure
    return failure._replace(server=server_of(endpoint.address.url, endpoint.host))


def leaves_connection(failure: Failure | None) -> bool:
    """Whether a failed statement has only been refused, so that nothing else that fails has to do with it."""
    return failure is not None and failure.failure_class is FailureClass.PERMANENT and failure.connection_usable


def doubts_connection(error: BaseException, handled: BaseException | None, endpoint: Endpoint) -> bool:
    """Whether a connection may be lost, after what is behind the error; not `handled` (what was being handled before) or older.

    Only what SQLAlchemy says of one counts, and the driver through it: that a row was not found says nothing of the connection.
    """
    seen: set[int] = set()
    current: BaseException | None = error
    while current is not None and current is not handled and id(current) not in seen:
        if isinstance(current, exc.DBAPIError):
            failure = classify(current, stage=Stage.BODY, flavour=endpoint.flavour, handled=handled)
            if not leaves_connection(failure):
                return True
        elif isinstance(current, (exc.DisconnectionError, exc.TimeoutError)):
            return True
        seen.add(id(current))
        # `from None` is the caller's word that it has nothing to do with what it was raised in.
        current = current.__cause__ or (None if current.__suppress_context__ else current.__context__)
    return False
