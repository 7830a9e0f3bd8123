"""What is written to the log, as a handler of a service would write it."""

from __future__ import annotations

import io
import json
import logging
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from holdfast.asgi.log_lines import JsonLines
from holdfast.asgi.request_id import RequestFilter

__all__ = ["Log", "log_of"]


class Log:
    """Two copies of everything that is logged: lines of JSON, and what a plain formatter makes of it."""

    def __init__(self) -> None:
        self.json_text = io.StringIO()
        self.plain_text = io.StringIO()

    @property
    def lines(self) -> list[dict[str, Any]]:
        """Each line of the JSON copy, parsed; a failure if one does not parse."""
        return [json.loads(line) for line in self.json_text.getvalue().split("\n")[:-1]]

    @property
    def everything(self) -> str:
        """Both copies."""
        return self.json_text.getvalue() + self.plain_text.getvalue()


@contextmanager
def log_of(*names: str) -> Iterator[Log]:
    """What the loggers called `names` write meanwhile, from DEBUG on."""
    log = Log()
    handlers = [logging.StreamHandler(log.json_text), logging.StreamHandler(log.plain_text)]
    handlers[0].setFormatter(JsonLines())
    handlers[1].setFormatter(logging.Formatter("%(levelname)s %(request_id)s %(message)s"))
    handlers[1].addFilter(RequestFilter())
    loggers = [logging.getLogger(name) for name in names]
    before = [(logger.level, logger.propagate) for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.DEBUG)
        logger.propagate = (
            False  # pytest keeps what it hears, and cannot send half a character from one process to another
        )
        for handler in handlers:
            logger.addHandler(handler)
    try:
        yield log
    finally:
        for logger, (level, propagate) in zip(loggers, before, strict=True):
            logger.setLevel(level)
            logger.propagate = propagate
            for handler in handlers:
                logger.removeHandler(handler)
