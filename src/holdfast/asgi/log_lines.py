"""One record, one line: log lines that nobody can forge or break, whatever is in them.

    handler.setFormatter(JsonLines())

Whatever comes from outside may hold line breaks, terminal escapes or invisible characters. Here everything outside printable
ASCII is escaped as JSON escapes it, and every field has a longest length. So a line is one line, parses, and shows what it is.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping
from datetime import UTC, datetime
from functools import lru_cache
from json.encoder import encode_basestring_ascii

from .context import CURRENT

__all__ = ["FIELD_MAX", "JsonLines", "LogFields", "capped", "one_line", "quoted", "visible"]

FIELD_MAX = 512
"""Characters of one field; what is longer ends in `...`."""

_TEXT_MAX = 16_384  # a message or a trace
_encode = json.JSONEncoder(separators=(",", ":"), ensure_ascii=True, default=str).encode


def capped(value: str, length_max: int = FIELD_MAX) -> str:
    """`value`, or its beginning with `...` if it has more than `length_max` characters."""
    return value if len(value) <= length_max else value[: length_max - 3] + "..."


def visible(value: str) -> str:
    """`value` with everything escaped that is no printable character, if there is any; for lines that are not JSON."""
    return value if value.isprintable() else value.encode("unicode_escape").decode("ascii")


def quoted(value: object) -> str:
    """A text, or None, as `one_line` writes it."""
    return "null" if value is None else encode_basestring_ascii(str(value)).replace("\x7f", "\\u007f")


def one_line(fields: Mapping[str, object]) -> str:
    """`fields` as one line of JSON in printable ASCII. Lengths are the caller's business (`capped`)."""
    # JSON lets DEL pass as it is; a terminal does not.
    return _encode(fields).replace("\x7f", "\\u007f")


class LogFields(dict[str, object]):
    """The message of a log record that is made of fields.

    Any formatter prints it as a line of JSON; `JsonLines` puts the fields beside its own. It becomes text only if it is printed.
    """

    __slots__ = ()

    def __str__(self) -> str:
        return one_line(self)


@lru_cache(maxsize=256)
def _from(level: str, logger: str) -> str:
    return f'"level":{quoted(level)},"logger":{quoted(logger)}'


class JsonLines(logging.Formatter):
    """Formats any log record as one line of JSON: time (UTC), level, logger, message, request and trace, error.

    Of an error the trace is printed as `logging` prints it, with the exception's text. Safe to share, as formatters are.
    """

    # The last second that was written, and its text: most records share it with the one before.
    _second: tuple[int, str] = (-1, "")

    def format(self, record: logging.LogRecord) -> str:
        """The line, without a line break."""
        said = record.msg
        fields = said if isinstance(said, LogFields) else LogFields(message=capped(record.getMessage(), _TEXT_MAX))
        more = LogFields()
        context = CURRENT.get()
        if context is not None and context.request_id and "request_id" not in fields:
            more["request_id"], more["trace_id"] = context.request_id, context.trace_id
        if record.exc_info:
            more["error"] = self.formatException(record.exc_info)[-_TEXT_MAX:]  # what was raised stands at the end
        line = f'{{"time":"{self._time(record.created)}",{_from(record.levelname, record.name)}'
        for part in (fields, more):
            if part:
                line += f",{str(part)[1:-1]}"  # without its braces
        return line + "}"

    def _time(self, created: float) -> str:
        whole = int(created)
        second, text = self._second
        if second != whole:
            text = datetime.fromtimestamp(whole, UTC).strftime("%Y-%m-%dT%H:%M:%S")
            self._second = (whole, text)
        return f"{text}.{int((created - whole) * 1000):03d}Z"
