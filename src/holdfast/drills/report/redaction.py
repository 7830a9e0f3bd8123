"""The last guard against a secret in a report: whatever a run said of itself passes through here before it is shown. Pure.

Nothing should put a password into a history. A report is handed around, so it does not rely on that.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

__all__ = ["redacted", "without_secrets"]

_HIDDEN = "***"
# The password may hold anything but a blank; the last @ before the host ends it.
_IN_URL = re.compile(r"(?<=://)([^\s:/@]*):(\S+)@")
# Where the text is a URL and nothing else, that may be a blank, too (SQLAlchemy reads it so).
_ALONE = re.compile(r"\A([\w+]+://[^:/]*):[^@]*@")
_IN_QUERY = re.compile(r"(?i)\b(\w*password|passwd|pwd|secret|token|api_?key)=([^\s&'\";]+)")
_NAMED = re.compile(r"(?i)password|passwd|\bpwd\b|secret|token|api_?key|credential")


def redacted(text: str) -> str:
    """`text` with the passwords of URLs, and what follows `password=` and the like, replaced by `***`."""
    text = _ALONE.sub(rf"\1:{_HIDDEN}@", text)
    return _IN_QUERY.sub(rf"\1={_HIDDEN}", _IN_URL.sub(rf"\1:{_HIDDEN}@", text))


def without_secrets(value: Any, *, name: str = "") -> Any:
    """`value` with every text in it redacted, and everything hidden whose name says that it is a secret."""
    if isinstance(value, Mapping):
        return {redacted(str(key)): without_secrets(inner, name=str(key)) for key, inner in value.items()}
    if isinstance(value, (list, tuple)):
        return [without_secrets(inner, name=name) for inner in value]
    if isinstance(value, str):
        return _HIDDEN if _NAMED.search(name) else redacted(value)
    return value
