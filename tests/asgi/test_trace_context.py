"""The W3C trace context is read strictly, and what is sent on is well formed."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from holdfast.asgi.trace_context import child_of, parse_traceparent, parse_tracestate

TRACE = "4bf92f3577b34da6a3ce929d0e0e4736"
PARENT = "00f067aa0ba902b7"
GOOD = f"00-{TRACE}-{PARENT}-01".encode()


@pytest.mark.parametrize(
    "value", [GOOD, GOOD.replace(b"00-", b"cc-", 1), GOOD.replace(b"00-", b"01-", 1) + b"-what-comes"]
)
def test_a_good_traceparent_is_read(value: bytes) -> None:
    """Of a later version as far as this one goes."""
    assert parse_traceparent(value) == (TRACE, "01")


@pytest.mark.parametrize(
    "value",
    [
        b"",
        GOOD[:-1],
        GOOD + b"-more",  # version 00 ends there
        GOOD.replace(b"00-", b"01-", 1) + b"x",
        GOOD.replace(b"00-", b"ff-", 1),
        GOOD.replace(b"00-", b"0g-", 1),
        GOOD.upper(),
        GOOD.replace(b"-", b"_"),
        GOOD.replace(TRACE.encode(), b"0" * 32),
        GOOD.replace(PARENT.encode(), b"0" * 16),
        GOOD.replace(b"4bf9", b"4bf\xff"),
        GOOD[:-2] + b"\r\n",
        b" " + GOOD,
        GOOD.replace(b"00-", b"01-", 1) + b"-" + b"x" * 300,
    ],
)
def test_a_malformed_traceparent_is_none(value: bytes) -> None:
    """Whatever the specification forbids begins a new trace."""
    assert parse_traceparent(value) is None


@given(st.binary(max_size=70))
def test_a_traceparent_never_raises(value: bytes) -> None:
    """Any bytes are either well formed or None."""
    found = parse_traceparent(value)
    assert found is None or value[3:35].decode() == found[0]


def test_a_tracestate_is_joined_in_order() -> None:
    """Several headers are one list; spaces around members and empty members go."""
    assert parse_tracestate([b"a=1, b@c=2 ,", b"d-_*/=x y"]) == "a=1,b@c=2,d-_*/=x y"
    assert parse_tracestate([b"", b","]) is None


@pytest.mark.parametrize(
    "value",
    [
        b"a",
        b"=1",
        b"a=",
        b"A=1",
        b"a=1,a=2",
        b"a=\x1b",
        b"a=1\r\nset-cookie: x",
        b"a=b=c",
        b"a@=1",
        b"a@b@c=1",
        b"a@" + b"b" * 15 + b"=1",
        b"\xff=1",
        b"a=" + b"x" * 257,
        b"a" * 257 + b"=1",
        b",".join(b"k%d=1" % number for number in range(33)),
        b"a=" + b"x" * 600,
    ],
)
def test_a_malformed_tracestate_is_dropped(value: bytes) -> None:
    """As a whole: half a list says something else than the list."""
    assert parse_tracestate([value]) is None


def test_what_is_sent_on_is_version_00_and_keeps_sampled_alone() -> None:
    """Flags this version does not know are cleared."""
    assert child_of(TRACE, PARENT, "ff") == f"00-{TRACE}-{PARENT}-01"
    assert parse_traceparent(child_of(TRACE, PARENT, "02").encode()) == (TRACE, "00")
