"""What an error or an answer of another service means; pure.

    no connection (refused, no route, TLS, none free in the pool, proxy)     UNSENT: the service never heard of it
    a certificate that cannot be trusted                                     PERMANENT: it will not be at the next attempt either
    a timeout or a broken connection after that                              AMBIGUOUS: it may have been done
    429; 503 with Retry-After                                                OVERLOAD: refused, and asked to come again
    502, 504; 503 without                                                    AMBIGUOUS: a gateway's, when the service broke off
    409 with Retry-After to a request with a key                             CONTENTION: the first of the two is still at work
    any other answer                                                         none: it is the answer

Only the type of an error is read, and of an answer the status and two headers. Source for Retry-After: RFC 9110, 10.2.3.
"""

from __future__ import annotations

from collections.abc import Mapping
from email.utils import parsedate_to_datetime
from ssl import SSLCertVerificationError

import httpx2

from ...backoff import HINT_SLACK_S
from ...errors import HoldfastError, NotCommitted
from ...outcome import Failure, FailureClass, Stage

__all__ = [
    "PATIENCE_MAX_S",
    "SPREAD",
    "failure_of_answer",
    "failure_of_error",
    "may_be_done",
    "parse_retry_after",
    "spread_out",
]

SPREAD = 0.25
"""By how much of itself a `Retry-After` is lengthened at most, by chance: who was sent away together must not come together."""

PATIENCE_MAX_S = HINT_SLACK_S / (1 + SPREAD)
"""The longest `Retry-After` that can be waited for in full, in seconds: spread out, it is as long as a hint may be."""

_HINT_LENGTH_MAX = 40  # an HTTP date has 29
_REFUSALS = frozenset({409, 429, 503})  # 503 without a hint is AMBIGUOUS, and never for good
_UNSENT = (httpx2.ConnectError, httpx2.ConnectTimeout, httpx2.PoolTimeout, httpx2.ProxyError)
_USELESS = (httpx2.UnsupportedProtocol, httpx2.LocalProtocolError)
_CHAIN_MAX = 8


def failure_of_error(error: Exception) -> Failure:
    """What `error`, raised by a transport, means."""
    name = type(error).__name__
    if isinstance(error, _UNSENT):
        useless = _is_certificate_trouble(error)
        return Failure(FailureClass.PERMANENT if useless else FailureClass.UNSENT, Stage.CONNECT, name=name)
    if isinstance(error, httpx2.TransportError) and not isinstance(error, _USELESS):
        return Failure(FailureClass.AMBIGUOUS, Stage.BODY, name=name)
    if isinstance(error, HoldfastError) and error.failure is not None:
        return error.failure
    unsent = isinstance(error, (httpx2.UnsupportedProtocol, NotCommitted))
    return Failure(FailureClass.PERMANENT, Stage.CONNECT if unsent else Stage.BODY, name=name)


def may_be_done(failure: Failure) -> bool:
    """Whether the service may have done what was asked for."""
    if failure.failure_class is FailureClass.PERMANENT:
        return failure.stage is not Stage.CONNECT and failure.code not in _REFUSALS
    return failure.failure_class is FailureClass.AMBIGUOUS


def _is_certificate_trouble(error: BaseException) -> bool:
    current: BaseException | None = error
    for _ in range(_CHAIN_MAX):
        if current is None or isinstance(current, SSLCertVerificationError):
            break
        current = current.__cause__ or current.__context__
    return isinstance(current, SSLCertVerificationError)


def failure_of_answer(
    status: int, headers: Mapping[str, str], *, keyed: bool, patience_s: float = PATIENCE_MAX_S, draw: float = 0.0
) -> Failure | None:
    """What an answer means that may be worth another attempt; None: it is the answer, whatever it says.

    Args:
        status: the status code.
        headers: of the answer; looked up by lower-case names.
        keyed: the request carried an `Idempotency-Key`.
        patience_s: the longest `Retry-After` to wait for. One who asks for more is not asked again: the failure is permanent.
        draw: a number from [0, 1), by which the hint is spread out.
    """
    if status not in (409, 429, 502, 503, 504):
        return None
    hint_s = parse_retry_after(headers.get("retry-after"), headers.get("date"))
    if status == 409:
        if not keyed or hint_s is None:
            return None
        kind = FailureClass.CONTENTION
    else:
        refused = status == 429 or (status == 503 and hint_s is not None)
        kind = FailureClass.OVERLOAD if refused else FailureClass.AMBIGUOUS
    if hint_s is not None and hint_s > patience_s:
        return Failure(FailureClass.PERMANENT, Stage.BODY, code=status, name="asks for more patience than there is")
    wait_s = None if hint_s is None else spread_out(hint_s, draw)
    return Failure(kind, Stage.BODY, code=status, retry_after_s=wait_s)


def spread_out(hint_s: float, draw: float) -> float:
    """`hint_s` lengthened by up to a quarter."""
    return hint_s * (1 + SPREAD * draw)


def parse_retry_after(value: str | None, date: str | None = None) -> float | None:
    """The seconds that a `Retry-After` asks for, 0 or more; None if there is none or it is malformed.

    Args:
        value: the header: 1 to 10 digits, or an HTTP date.
        date: the `Date` of the same answer. A date in `value` counts from there, so clocks need not agree; without it such a
            value says nothing.
    """
    if value is None or len(value) > _HINT_LENGTH_MAX:
        return None
    value = value.strip()
    if value.isascii() and value.isdigit():
        return float(value) if len(value) <= 10 else None
    if date is None or len(date) > _HINT_LENGTH_MAX:
        return None
    try:
        until, since = parsedate_to_datetime(value), parsedate_to_datetime(date)
        return max(0.0, (until - since).total_seconds())
    except (ValueError, TypeError, IndexError, OverflowError):  # no date, or one of the two without a time zone
        return None
