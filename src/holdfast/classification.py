"""What an exception means where no server's error table speaks: for plain functions.

    BlockTimedOut, TimeoutError, EOFError, ConnectionError            AMBIGUOUS: the other side may have done the work
    a library's error that is called after a timeout or a connection  AMBIGUOUS: the same, by another name (`_MAYBE_SENT`)
    ConnectionRefusedError, socket.gaierror                           UNSENT: it never heard of it
    a library's that nothing was connected, or free in its pool       UNSENT: the same (`_UNSENT`)
    BreakerOpen, BulkheadFull, LoadShed, RateLimited                  UNSENT, with the rejection's retry-after hint
    other errors of Holdfast                                          what they say of themselves; PERMANENT otherwise
    anything else the author named                                    LOST: it failed, another attempt may not

Pure. `Exception`s only: what stops a program or a task (`KeyboardInterrupt`, `CancelledError`, `GeneratorExit`) is no failure
and never gets here.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, TypeAlias

from .deadline import seconds
from .errors import (
    BlockTimedOut,
    ConfigurationError,
    Contended,
    HoldfastError,
    InProgress,
    NotLoaded,
    OutcomeUnknown,
    Overloaded,
    Rejected,
    Unavailable,
)
from .outcome import Failure, FailureClass, Stage

if TYPE_CHECKING:
    from datetime import timedelta

__all__ = ["Answer", "Classifier", "On", "classifier", "failure_of"]

Answer: TypeAlias = "Failure | FailureClass | bool | float | timedelta | None"
"""What a callable given as `on` may say of an exception: a classified failure or its class; True: one to handle; a number of
seconds or a `timedelta`: the same, and the other side asks for that much patience; False or None: not one to handle."""

On: TypeAlias = "type[Exception] | tuple[type[Exception], ...] | Callable[[Exception], Answer]"
"""Which exceptions a policy handles: types, or a callable that looks at each."""

Classifier: TypeAlias = "Callable[[Exception], Failure]"

_OWN: tuple[tuple[type[HoldfastError], FailureClass], ...] = (
    (Rejected, FailureClass.UNSENT),
    (Unavailable, FailureClass.UNSENT),
    (Overloaded, FailureClass.OVERLOAD),
    (Contended, FailureClass.CONTENTION),
    (InProgress, FailureClass.CONTENTION),
    (OutcomeUnknown, FailureClass.AMBIGUOUS),
    (NotLoaded, FailureClass.AMBIGUOUS),
    (BlockTimedOut, FailureClass.AMBIGUOUS),
)

_UNSENT = frozenset(
    {
        ("aiohttp", "ClientConnectorError"),
        ("aiohttp", "ConnectionTimeoutError"),
        ("botocore", "ConnectTimeoutError"),
        ("botocore", "EndpointConnectionError"),
        ("httpcore", "ConnectError"),
        ("httpcore", "ConnectTimeout"),
        ("httpcore", "PoolTimeout"),
        ("httpx", "ConnectError"),
        ("httpx", "ConnectTimeout"),
        ("httpx", "PoolTimeout"),
        ("httpx2", "ConnectError"),
        ("httpx2", "ConnectTimeout"),
        ("httpx2", "PoolTimeout"),
        ("psycopg_pool", "PoolTimeout"),
        ("requests", "ConnectTimeout"),
        ("sqlalchemy", "TimeoutError"),  # of its pool
        ("urllib3", "ConnectTimeoutError"),
        ("urllib3", "NewConnectionError"),
    }
)
"""Errors of libraries, as package and class, after which nothing was sent. Known by name: none of them is imported."""

_MAYBE_SENT = (
    "Timeout",
    "TimedOut",
    "Connection",
    "Disconnect",
    "NetworkError",
    "ProtocolError",
    "TransportError",
    "SSLError",
)
"""What the class of an error, or one of its bases, is called after which the other side may have done the work."""


def failure_of(error: Exception) -> Failure:
    """What `error` means, taken as one that the author wants handled."""
    name = type(error).__name__
    if isinstance(error, HoldfastError):
        if error.failure is not None:
            return error.failure
        own = next((known for kind, known in _OWN if isinstance(error, kind)), FailureClass.PERMANENT)
        return Failure(own, Stage.BODY, name=name, retry_after_s=error.retry_after_s)
    # Late: only a program that uses sockets can fail here, and it has paid for the import.
    from socket import gaierror

    if isinstance(error, (ConnectionRefusedError, gaierror)):
        return Failure(FailureClass.UNSENT, Stage.CONNECT, name=name)
    kinds = type(error).__mro__
    if any((kind.__module__.partition(".")[0], kind.__name__) in _UNSENT for kind in kinds):
        return Failure(FailureClass.UNSENT, Stage.CONNECT, name=name)
    # A base named `TimeoutError` or `ConnectionError` is found by its name, the builtin or a library's own.
    if isinstance(error, EOFError) or any(word in kind.__name__ for kind in kinds for word in _MAYBE_SENT):
        return Failure(FailureClass.AMBIGUOUS, Stage.BODY, name=name)
    return Failure(FailureClass.LOST, Stage.BODY, name=name)


def classifier(on: On) -> Classifier:
    """The function that says what an exception means to a policy configured with `on`.

    Raises:
        ConfigurationError: `on` is neither exception types nor a callable, or names what must never be handled.
    """
    if isinstance(on, (type, tuple)):
        kinds = on if isinstance(on, tuple) else (on,)
        for kind in kinds:
            if not isinstance(kind, type) or not issubclass(kind, BaseException):
                raise ConfigurationError(f"`on` names exception types; {kind!r} is none")
            if not issubclass(kind, Exception):
                raise ConfigurationError(
                    f"`on` names {kind.__name__}, which stops a program or a task and is never handled; "
                    "name `Exception` or something narrower"
                )
        if not kinds:
            raise ConfigurationError("`on` is empty: name at least one exception type")

        def by_type(error: Exception) -> Failure:
            return failure_of(error) if isinstance(error, kinds) else _permanent(error)

        return by_type
    if not callable(on):
        raise ConfigurationError(f"`on` is an exception type, several in a tuple, or a callable, not {on!r}")

    def by_answer(error: Exception) -> Failure:
        known = failure_of(error)
        if known.failure_class is FailureClass.PERMANENT:
            return known  # final by itself: no answer can change it
        try:
            answer = on(error)
        except Exception as broken:
            if broken is not error and broken.__cause__ is None:
                broken.__cause__ = error  # so that whoever mends it, and `report_of`, find what happened first
            raise
        if answer is None or answer is False:
            return _permanent(error)
        if answer is True:
            return known
        if isinstance(answer, Failure):
            return answer
        if isinstance(answer, FailureClass):
            return known._replace(failure_class=answer)
        return known._replace(retry_after_s=seconds(answer, name="the delay that `on` answered"))

    return by_answer


def _permanent(error: Exception) -> Failure:
    return Failure(FailureClass.PERMANENT, Stage.BODY, name=type(error).__name__)
