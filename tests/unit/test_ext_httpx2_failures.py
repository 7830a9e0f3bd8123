"""What errors and answers of other services mean."""

from __future__ import annotations

import ssl

import httpx2
import pytest

from holdfast.errors import BreakerOpen, ConfigurationError, DeadlineExceeded
from holdfast.ext.httpx2 import CallRules, failure_of_answer, failure_of_error, parse_retry_after
from holdfast.ext.httpx2.failures import PATIENCE_MAX_S, may_be_done
from holdfast.outcome import FailureClass

DATE = "Sun, 06 Nov 1994 08:49:37 GMT"


@pytest.mark.parametrize(
    ("error", "kind", "may_be"),
    [
        (httpx2.ConnectError("x"), FailureClass.UNSENT, False),
        (httpx2.ConnectTimeout("x"), FailureClass.UNSENT, False),
        (httpx2.PoolTimeout("x"), FailureClass.UNSENT, False),
        (httpx2.ProxyError("x"), FailureClass.UNSENT, False),
        (httpx2.ReadTimeout("x"), FailureClass.AMBIGUOUS, True),
        (httpx2.WriteTimeout("x"), FailureClass.AMBIGUOUS, True),
        (httpx2.ReadError("x"), FailureClass.AMBIGUOUS, True),
        (httpx2.WriteError("x"), FailureClass.AMBIGUOUS, True),
        (httpx2.RemoteProtocolError("x"), FailureClass.AMBIGUOUS, True),
        (httpx2.UnsupportedProtocol("x"), FailureClass.PERMANENT, False),
        (httpx2.LocalProtocolError("x"), FailureClass.PERMANENT, True),
        (DeadlineExceeded("x"), FailureClass.PERMANENT, False),
        (BreakerOpen("x"), FailureClass.PERMANENT, False),
        (ValueError("x"), FailureClass.PERMANENT, True),
    ],
)
def test_every_error_has_its_class(error: Exception, kind: FailureClass, may_be: bool) -> None:
    """Before anything was sent nothing was done; afterwards it may have been; what is no failure of the service is final."""
    failure = failure_of_error(error)
    assert (failure.failure_class, may_be_done(failure)) == (kind, may_be)
    assert failure.name == type(error).__name__


def test_a_certificate_that_is_not_trusted_stays_so() -> None:
    """A failed verification is not tried again, however deep it lies; another trouble with TLS is."""
    for cause, kind in (
        (ssl.SSLCertVerificationError(1, "x"), FailureClass.PERMANENT),
        (ssl.SSLEOFError(1, "x"), FailureClass.UNSENT),
    ):
        error, between = httpx2.ConnectError("x"), OSError("x")
        error.__cause__, between.__context__ = between, cause
        assert failure_of_error(error).failure_class is kind


@pytest.mark.parametrize(
    ("status", "hint", "keyed", "kind", "may_be"),
    [
        (200, "1", True, None, False),
        (400, None, True, None, False),
        (500, "1", True, None, False),
        (409, "1", True, FailureClass.CONTENTION, False),
        (409, None, True, None, False),
        (409, "1", False, None, False),
        (429, None, False, FailureClass.OVERLOAD, False),
        (429, "3600", False, FailureClass.PERMANENT, False),
        (502, None, False, FailureClass.AMBIGUOUS, True),
        (502, "3600", False, FailureClass.PERMANENT, True),
        (503, None, False, FailureClass.AMBIGUOUS, True),
        (503, "soon", False, FailureClass.AMBIGUOUS, True),
        (503, "1", False, FailureClass.OVERLOAD, False),
        (503, "3600", False, FailureClass.PERMANENT, False),
        (504, None, False, FailureClass.AMBIGUOUS, True),
    ],
)
def test_every_answer_has_its_class(
    status: int, hint: str | None, keyed: bool, kind: FailureClass | None, may_be: bool
) -> None:
    """A refusal was not done, what a gateway says may have been, and who asks for too much patience is not asked again."""
    headers = {} if hint is None else {"retry-after": hint}
    failure = failure_of_answer(status, headers, keyed=keyed)
    assert (failure and failure.failure_class) == kind
    if failure is not None:
        assert may_be_done(failure) is may_be
        assert failure.code == status


@pytest.mark.parametrize(
    ("value", "seconds"),
    [
        ("0", 0.0),
        ("120", 120.0),
        (" 7 ", 7.0),
        ("Sun, 06 Nov 1994 08:49:40 GMT", 3.0),
        ("Sunday, 06-Nov-94 08:49:40 GMT", 3.0),
        ("Sun, 06 Nov 1994 08:49:30 GMT", 0.0),
    ],
)
def test_retry_after_is_digits_or_a_date(value: str, seconds: float) -> None:
    """Seconds are taken as they are; a date counts from the answer's own, and one that has passed means now."""
    assert parse_retry_after(value, DATE) == seconds


@pytest.mark.parametrize(
    "value",
    [
        None,
        "",
        "-1",
        "+1",
        "1.5",
        "1e3",
        "0x10",
        "1, 2",
        "²",
        "٣",
        "soon",
        "nan",
        "inf",
        "9" * 11,
        "9" * 100_000,
        "Sun, 99 Nov 1994 08:49:37 GMT",
        "Sun, 06 Nov 99999 08:49:37 GMT",
        "Sun, 06 Nov 1994 08:49:37 -0000",
        "\x00",
    ],
)
def test_a_malformed_retry_after_says_nothing(value: str | None) -> None:
    """What is neither is as good as not there, and raises nothing."""
    assert parse_retry_after(value, DATE) is None


def test_a_date_needs_the_date_of_the_answer() -> None:
    """Without a good one to count from, a date says nothing: the clocks of two machines are not compared."""
    for date in (None, "", "yesterday", "x" * 1000):
        assert parse_retry_after("Sun, 06 Nov 1994 08:49:40 GMT", date) is None


def test_a_hint_is_spread_out() -> None:
    """A hint is kept in full and lengthened by up to a quarter, so that all who got it do not come at once."""
    waits = [
        failure.retry_after_s
        for draw in (0.0, 0.5, 0.999)
        if (failure := failure_of_answer(429, {"retry-after": "2"}, keyed=False, draw=draw)) is not None
    ]
    assert waits == pytest.approx([2.0, 2.25, 2.4995])


@pytest.mark.parametrize(
    "setting",
    [
        {"hosts_max": 0},
        {"keyed": "POST"},
        {"keyed": ("post",)},
        {"timeout_header": ""},
        {"timeout_header": "X-Timeout\r\nX: "},
        {"margin": -1},
        {"retry_after_max": PATIENCE_MAX_S + 0.1},
        {"hedge_after": 0},
    ],
)
def test_wrong_rules_are_refused(setting: dict[str, object]) -> None:
    """A setting outside its bounds fails where it is given."""
    with pytest.raises(ConfigurationError):
        CallRules(**setting)  # type: ignore[arg-type]
