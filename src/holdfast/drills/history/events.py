"""What the lines of a history say: one class for each kind, an operation's two lines brought together in one."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any

__all__ = [
    "CONNECTING",
    "NOT_SENT",
    "NS",
    "RETRY_AFTER",
    "SHED",
    "Answer",
    "FaultSpan",
    "Final",
    "Operation",
    "PhaseSpan",
    "Sample",
    "Wire",
    "nanoseconds",
]

NS = 1_000_000_000
"""Nanoseconds in a second."""


NOT_SENT = "NoCallerFree"
"""The `error` of an operation that was due and never asked: its time was over before one of the drill's callers was free."""


SHED = "LoadShed"
"""The `error` of an operation that a limit turned away before it held anything."""

RETRY_AFTER = "retry_after_s"
"""In the result of such a one: the seconds after which it was told to come again."""


CONNECTING = "connecting"
"""In the result of an operation that ended without a connection: one was being opened for it."""


def nanoseconds(monotonic_s: float) -> int:
    """A moment of a `Clock`, in seconds, as the history writes it."""
    return round(monotonic_s * NS)


class Answer(StrEnum):
    """What the caller of an operation was told."""

    OK = "ok"
    """Done."""
    FAIL = "fail"
    """Definitely not done."""
    INFO = "info"
    """Unknown; also an operation that never ended."""


@dataclass(frozen=True, slots=True)
class Operation:
    """One operation, its invoke and its end brought together. All moments are nanoseconds of CLOCK_MONOTONIC.

    Attributes:
        process, index: who asked, and its number; together they name the operation.
        name: what was asked: `transfer`, `insert`, ...
        value: its arguments.
        invoked: when it was begun; of one that was never sent, when its time was over.
        intended: when it should have been begun at the stated rate; `invoked` where nobody said.
        deadline: when it must have ended, or None.
        key: its idempotency key as the workload names it, or None.
        answer: what the caller was told.
        ended: when; None if it never was.
        killed: whether it did not end because its process was killed.
        result: what it returned or observed.
        attempts: how often it was tried; 0 where nobody said.
        stage, code, failure_class, error, node: how the last attempt failed, and on which server; each None where nobody said.
    """

    process: str
    index: int
    name: str
    value: Mapping[str, Any]
    invoked: int
    intended: int
    deadline: int | None
    key: str | None
    answer: Answer = Answer.INFO
    ended: int | None = None
    killed: bool = False
    result: Mapping[str, Any] = field(default_factory=dict)
    attempts: int = 0
    stage: str | None = None
    code: int | str | None = None
    failure_class: str | None = None
    error: str | None = None
    node: str | None = None

    @property
    def was_sent(self) -> bool:
        """Whether it was asked at all; one that was not is a `fail` without an attempt, and certainly absent."""
        return self.error != NOT_SENT

    def __str__(self) -> str:
        """How a report names it: enough to find its lines in the history."""
        return f"{self.process}/{self.index} {self.name} ({self.answer})"


@dataclass(frozen=True, slots=True)
class FaultSpan:
    """One fault, from its start to its heal, in nanoseconds; `end` is None if it never was healed."""

    process: str
    id: int
    name: str
    start: int
    end: int | None
    value: Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class PhaseSpan:
    """One phase of the run, in nanoseconds; `end` is None if the run was cut off in it."""

    name: str
    start: int
    end: int | None


@dataclass(frozen=True, slots=True)
class Wire:
    """One line of the proxy's log: what it saw, on which connection (None: not of one), at `t` nanoseconds."""

    t: int
    name: str
    connection: int | str | None
    value: Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Sample:
    """What was counted at `t` nanoseconds: file descriptors, memory, connections."""

    t: int
    process: str
    value: Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Final:
    """The state that was read back from the database at `t` nanoseconds, after the last heal."""

    t: int
    name: str
    value: Mapping[str, Any]
