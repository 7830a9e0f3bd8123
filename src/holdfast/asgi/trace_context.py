"""The W3C trace context: which trace a request belongs to, read strictly, and what to send on.

Everything here is pure and reads each byte a fixed number of times: a value is measured before it is looked at, and there is
no pattern to backtrack in. What is malformed is no trace context at all, and a new trace begins; nothing of it is repeated.

Source: W3C Trace Context, Level 1 (Recommendation, 2021), sections 3.2 and 3.3.
"""

from __future__ import annotations

from collections.abc import Sequence

__all__ = ["TRACEPARENT_MAX", "TRACESTATE_MAX", "child_of", "parse_traceparent", "parse_tracestate"]

TRACEPARENT_MAX = 256
"""Bytes. Version 00 has 55; later ones may append fields."""

TRACESTATE_MAX = 512
"""Bytes, over all headers: what 3.3.1.5 says must at least be passed on."""

_MEMBERS_MAX = 32

_HEX = b"0123456789abcdef"
_KEY_START = frozenset(b"abcdefghijklmnopqrstuvwxyz0123456789")
_KEY = _KEY_START | frozenset(b"_-*/@")
# 3.3.1.3.2: visible ASCII and spaces, without comma and equals sign.
_VALUE = frozenset(range(0x20, 0x7F)) - frozenset(b",=")

_ZERO_TRACE = b"0" * 32
_ZERO_PARENT = b"0" * 16


def parse_traceparent(value: bytes) -> tuple[str, str] | None:
    """The trace id (32 hexadecimal digits) and the flags (2) of a `traceparent`, or None if it is malformed."""
    if not 55 <= len(value) <= TRACEPARENT_MAX:
        return None
    if len(value) > 55:
        # Version 00 ends there; a later one may go on behind another hyphen, and is read as far as this one goes (3.2.4).
        if value[:2] == b"00" or value[55] != 0x2D:
            return None
        value = value[:55]
    # What is no digit are three hyphens, and these are their places.
    if value.translate(None, _HEX) != b"---" or not value[2] == value[35] == value[52] == 0x2D:
        return None
    if value[:2] == b"ff" or value[3:35] == _ZERO_TRACE or value[36:52] == _ZERO_PARENT:
        return None
    text = value.decode("ascii")
    return text[3:35], text[53:]


def parse_tracestate(values: Sequence[bytes]) -> str | None:
    """The `tracestate` to send on, from all headers of that name in order, or None if it is empty or malformed."""
    if sum(map(len, values)) + len(values) > TRACESTATE_MAX + 1:
        return None
    members = [member.strip(b" \t") for member in b",".join(values).split(b",")]
    members = [member for member in members if member]  # empty ones are allowed, and dropped
    if not members or len(members) > _MEMBERS_MAX:
        return None
    keys: set[bytes] = set()
    for member in members:
        key, equals, value = member.partition(b"=")
        if not equals or not _is_key(key) or key in keys:
            return None
        if not 1 <= len(value) <= 256 or not _VALUE.issuperset(value):
            return None
        keys.add(key)
    return b",".join(members).decode("ascii")


def _is_key(key: bytes) -> bool:
    if not 1 <= len(key) <= 256 or key[0] not in _KEY_START or not _KEY.issuperset(key):
        return False
    tenant, at, system = key.partition(b"@")
    return not at or (len(tenant) <= 241 and 1 <= len(system) <= 14 and system[0] in _KEY_START and b"@" not in system)


def child_of(trace_id: str, parent_id: str, flags: str) -> str:
    """The `traceparent` to send on: version 00, since that is all this service understands.

    Args:
        trace_id: 32 hexadecimal digits.
        parent_id: 16 hexadecimal digits that name this request within the trace.
        flags: 2 hexadecimal digits. Of them only `sampled` is defined in version 00 and kept (3.2.2.5).
    """
    return f"00-{trace_id}-{parent_id}-{'01' if int(flags, 16) & 1 else '00'}"
