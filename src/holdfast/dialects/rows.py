"""One row: what one error code means. One table: the rows of one flavour, found by code and, rarely, by text."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from ..outcome import FailureClass, Rejection, Stage

__all__ = [
    "AMBIGUOUS",
    "CANCELLED",
    "CONTENTION",
    "EXHAUSTED",
    "LOST",
    "OVERLOAD",
    "PERMANENT",
    "ROLE_CHANGED",
    "UNSENT",
    "Row",
    "Table",
    "class_at",
]

# Short, so that a row is a line.
CONTENTION = FailureClass.CONTENTION
UNSENT = FailureClass.UNSENT
LOST = FailureClass.LOST
AMBIGUOUS = FailureClass.AMBIGUOUS
ROLE_CHANGED = FailureClass.ROLE_CHANGED
OVERLOAD = FailureClass.OVERLOAD
EXHAUSTED = FailureClass.EXHAUSTED
PERMANENT = FailureClass.PERMANENT
CANCELLED = FailureClass.CANCELLED


def class_at(stage: Stage, failure_class: FailureClass, *, aborts_commit: bool) -> FailureClass:
    """What an error of `failure_class` means at `stage`.

    Before a connection stood nothing can have been lost. Once COMMIT was sent only an answer that proves the abort
    (`aborts_commit`) is anything but `AMBIGUOUS`.
    """
    if stage is Stage.COMMIT:
        return failure_class if aborts_commit else AMBIGUOUS
    if stage is Stage.CONNECT and failure_class in (LOST, AMBIGUOUS):
        return UNSENT
    return failure_class


@dataclass(frozen=True, slots=True)
class Row:
    """What one error code means.

    Attributes:
        code: the server's or client's number, an SQLSTATE, or the two characters of an SQLSTATE class.
        name: the symbolic name the vendor gives it.
        failure_class: what it means before COMMIT was sent.
        note: one sentence for a person.
        aborts_commit: True where this answer to COMMIT proves that nothing was committed. Everything else that goes
            wrong at COMMIT is ambiguous.
        connection_usable: False where the connection does not survive. `LOST` and `UNSENT` imply it.
        rejection: for `PERMANENT`: why the server refuses.
        text: a pattern the message must contain for this row to apply, for the few numbers that mean several things.
        details: a pattern with the groups `constraint`, `table` and `columns`; it must never span a value.
        hides_cause: True where an earlier error of the same transaction is the real one.
    """

    code: int | str
    name: str
    failure_class: FailureClass
    note: str
    aborts_commit: bool = False
    connection_usable: bool = True
    rejection: Rejection | None = None
    text: str | None = None
    details: str | None = None
    hides_cause: bool = False

    def applies_to(self, message: str) -> bool:
        """Whether the row's text, if it asks for one, stands in `message`."""
        return self.text is None or re.search(self.text, message) is not None


class Table:
    """The rows of one flavour.

    Several rows may share a code; the first whose `text` fits wins, so the one without a text comes last.
    """

    __slots__ = ("_by_code",)

    def __init__(self, *groups: Iterable[Row]) -> None:
        by_code: dict[int | str, tuple[Row, ...]] = {}
        for group in groups:
            for row in group:
                before = by_code.get(row.code, ())
                if before and before[-1].text is None:
                    raise ValueError(f"a row for {row.code} can never be reached: one without a text stands before it")
                by_code[row.code] = (*before, row)
        self._by_code = by_code

    def find(self, code: int | str, message: str) -> Row | None:
        """The row for `code` that applies to `message`, or None where the table has none."""
        for row in self._by_code.get(code, ()):
            if row.applies_to(message):
                return row
        return None

    def rows_for(self, code: int | str) -> tuple[Row, ...]:
        """Every row of `code`, in the order in which they are tried."""
        return self._by_code.get(code, ())

    def __iter__(self) -> Iterator[Row]:
        for rows in self._by_code.values():
            yield from rows
