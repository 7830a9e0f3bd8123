"""Risk: a parser whose work grows faster than what it reads. Counted in steps of the interpreter, not in seconds."""

from __future__ import annotations

import gc
import sys
from collections.abc import Callable
from contextlib import suppress
from types import FrameType
from typing import Any

import pytest

from holdfast.asgi.body import promised_length
from holdfast.asgi.deadline import parse_grpc_timeout, parse_milliseconds, time_allowed_s
from holdfast.asgi.headers import Fields, MalformedHeader, only, text
from holdfast.asgi.log_lines import capped, one_line, visible
from holdfast.asgi.request_id import acceptable_id
from holdfast.asgi.trace_context import parse_traceparent, parse_tracestate

PARSERS: dict[str, Callable[[bytes], object]] = {
    "traceparent": parse_traceparent,
    "tracestate": lambda value: parse_tracestate([value]),
    "tracestate in pieces": lambda value: parse_tracestate([b"a=1"] * (len(value) // 4)),
    "request id": acceptable_id,
    "milliseconds": parse_milliseconds,
    "grpc-timeout": parse_grpc_timeout,
    "content-length": lambda value: promised_length(Fields([(b"content-length", value)])),
    "text": lambda value: text(b"x", value, length_max=100_000),
    "visible": lambda value: visible(value.decode("latin-1")),
    "line": lambda value: one_line({"x": capped(value.decode("latin-1"))}),
}
"""Everything that reads what came from outside."""

PIECES = [
    b"0",
    b"-",
    b"a=1,",
    b"a",
    b",",
    b"=",
    b" ",
    b"\t",
    b"@",
    b"\xff",
    b"\r\n",
    b"00-" + b"1" * 32 + b"-",
    b"9",
    b"S",
]


def steps(parse: Callable[[bytes], object], value: bytes) -> int:
    """Bytecode instructions that reading `value` takes."""
    count = 0

    def trace(frame: FrameType, event: str, _: Any) -> Any:
        nonlocal count
        frame.f_trace_opcodes = True
        if event == "opcode":
            count += 1
        return trace

    before = sys.gettrace()
    gc.disable()  # what it would finalize meanwhile is somebody else's, and would be counted
    sys.settrace(trace)
    try:
        with suppress(MalformedHeader):
            parse(value)
    finally:
        sys.settrace(before)
        gc.enable()
    return count


@pytest.mark.parametrize("piece", PIECES, ids=repr)
@pytest.mark.parametrize("parse", PARSERS.values(), ids=PARSERS.keys())
def test_a_hundred_kilobytes_take_no_more_steps_than_a_few(parse: Callable[[bytes], object], piece: bytes) -> None:
    """Ten times as much takes no more than twenty times the steps, and 100 kB no more than the 512 bytes that are looked at."""
    small, large = piece * (10_000 // len(piece)), piece * (100_000 // len(piece))
    assert steps(parse, large) <= 20 * steps(parse, small) + 100
    assert steps(parse, large) < 50_000


def test_numbers_of_any_length_are_not_computed() -> None:
    """Turning digits into a number is quadratic, inside one instruction: it is done for the few that fit."""
    for parse in (parse_milliseconds, parse_grpc_timeout):
        with pytest.raises(MalformedHeader):
            parse(b"9" * 1_000_000)
    assert promised_length(Fields([(b"content-length", b"9" * 1_000_000)])) is None


def test_many_headers_are_gone_through_once() -> None:
    """Steps grow with the number of headers, not with its square."""

    def scan(value: bytes) -> None:
        headers = [(b"x-%d" % number, b"1") for number in range(len(value))]
        only(headers, b"x-1")
        time_allowed_s(headers, 10)

    assert steps(scan, b"x" * 2_000) <= 12 * steps(scan, b"x" * 200)


def test_planted_quadratic_parser_is_found() -> None:
    """The count would see one that begins anew at every byte."""

    def quadratic(value: bytes) -> None:
        for start in range(len(value)):
            for _ in value[start:]:
                pass

    assert steps(quadratic, b"x" * 1_000) > 20 * steps(quadratic, b"x" * 100)
