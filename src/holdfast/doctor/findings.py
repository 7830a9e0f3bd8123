"""The words of a diagnosis: question, answer, evidence, check, symptom, finding.

A check is a pure function from evidence to symptoms. Where it comes to a question that got no answer it ends there, with a
finding of its own, `unseen`, which says what would show it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

from ..dialects import Flavour

__all__ = [
    "Answer",
    "Check",
    "ClientFacts",
    "Evidence",
    "Finding",
    "Question",
    "Refused",
    "Rows",
    "Severity",
    "Symptom",
    "Unseen",
    "shown",
]

Rows = Sequence[tuple[Any, ...]]
"""What a database answers: its rows, each a tuple."""


class Severity(StrEnum):
    """How much a finding matters, the worst first."""

    ERROR = "error"
    """It breaks the promise: what was acknowledged can be lost or applied by half, or nothing can be saved."""
    WARNING = "warning"
    """The promise holds, but operations fail that need not, or it hangs on something that cannot be seen from here."""
    NOTE = "note"
    """Worth knowing; nothing to do for Holdfast's sake."""
    UNSEEN = "unseen"
    """Could not be looked at."""


@dataclass(frozen=True, slots=True)
class Question:
    """One statement that reads and changes nothing.

    Attributes:
        name: by which checks ask for the answer.
        sql: the statement, without parameters and without a percent sign, which some drivers would take for one.
        grant: what would let a user see the answer; empty where everybody may.
    """

    name: str
    sql: str
    grant: str = ""


@dataclass(frozen=True, slots=True)
class Refused:
    """The answer of a server that did not answer.

    Attributes:
        why: the code and name of its error; no text of the server's, which could hold anything.
    """

    why: str


Answer = Rows | Refused


@dataclass(frozen=True, slots=True, kw_only=True)
class ClientFacts:
    """What the diagnosis must know of the clients' side.

    Attributes:
        deadline_s: the default deadline of an operation, seconds; default 10, as a database's.
        processes: how many processes have a pool of their own; default 1.
        pool_open: connections a pool opens at most (`PoolSettings.open_max`); default 100.
        recycle_s: seconds after which the pool replaces a connection, or None for never; default 300.
        isolation: `snapshot` (default), `serializable` or `read committed`, as the database is opened with.
        file_system: for SQLite: the type of the file system that holds the file (`nfs4`, `ext4`, ...), or None where it is not
            known.
    """

    deadline_s: float = 10.0
    processes: int = 1
    pool_open: int = 100
    recycle_s: float | None = 300.0
    isolation: str = "snapshot"
    file_system: str | None = None


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing that is not as it should be, or that could not be seen.

    Attributes:
        check: the name of the check.
        severity: how much it matters.
        found: what the server says.
        reason: why that matters.
        cure: the statement or setting that changes it; for `unseen`, what would show it.
    """

    check: str
    severity: Severity
    found: str
    reason: str
    cure: str


@dataclass(frozen=True, slots=True)
class Symptom:
    """A finding, before it is known by which check. The attributes are those of `Finding`."""

    severity: Severity
    found: str
    reason: str
    cure: str


class Unseen(Exception):
    """Raised where a check asks for what got no answer.

    Attributes:
        question: the name of the question.
        why: the server's code, or what is missing.
    """

    def __init__(self, question: str, why: str) -> None:
        super().__init__(question, why)
        self.question = question
        self.why = why


@dataclass(frozen=True, slots=True)
class Evidence:
    """The answers, and the facts of the clients' side, as checks read them.

    Attributes:
        flavour: whose answers.
        answers: by the question's name.
        client: the clients' side.
    """

    flavour: Flavour
    answers: Mapping[str, Answer]
    client: ClientFacts

    def rows(self, question: str) -> Rows:
        """The rows that answered `question`.

        Raises:
            Unseen: it was refused, or never asked.
        """
        answer = self.answers.get(question, Refused("not asked"))
        if isinstance(answer, Refused):
            raise Unseen(question, answer.why)
        return answer

    def text(self, question: str, name: str) -> str | None:
        """The value beside `name` in an answer of (name, value, ...) rows; None where the server has no such name.

        Raises:
            Unseen: as `rows`.
        """
        for row in self.rows(question):
            if _text(row[0]).lower() == name.lower():
                return _text(row[1])
        return None

    def number(self, question: str, name: str) -> float | None:
        """The same as a number; None also where it is none.

        Raises:
            Unseen: as `rows`.
        """
        return _number(self.text(question, name))

    def scalar(self, question: str) -> str | None:
        """The first value of the first row; None where there is none.

        Raises:
            Unseen: as `rows`.
        """
        rows = self.rows(question)
        return _text(rows[0][0]) if rows and rows[0] and rows[0][0] is not None else None


def _text(value: object) -> str:
    return value.decode("utf-8", "replace") if isinstance(value, bytes | bytearray) else str(value)


def _number(text: str | None) -> float | None:
    try:
        return float(text) if text is not None else None
    except ValueError:
        return None


@dataclass(frozen=True, slots=True)
class Check:
    """One thing that is looked at.

    Attributes:
        name: as it stands in findings and on the command line.
        looks_at: the settings or objects, for a person.
        severities: the severities it can find, the worst first; `unseen` goes without saying.
        rule: from the evidence to what is wrong; nothing where all is well, or where it does not apply.
    """

    name: str
    looks_at: str
    severities: tuple[Severity, ...]
    rule: Callable[[Evidence], Iterable[Symptom]]

    def find(self, evidence: Evidence, questions: Mapping[str, Question]) -> Iterator[Finding]:
        """The findings of this check, and an `unseen` one where a question it asks got no answer, or not a whole one.

        Args:
            evidence: what is known.
            questions: by name; they say what would let them be answered.
        """
        try:
            for symptom in self.rule(evidence):
                yield Finding(self.name, symptom.severity, symptom.found, symptom.reason, symptom.cure)
        except Unseen as unseen:
            yield Finding(
                self.name,
                Severity.UNSEEN,
                f"{self.looks_at}: not seen ({unseen.why})",
                "the server did not tell this user, so nothing is known about it",
                _way_to_see(questions.get(unseen.question)),
            )


def _way_to_see(question: Question | None) -> str:
    if question is None or not question.grant:
        return "ask somebody who may look"
    return question.grant


def shown(names: Sequence[str], most: int = 5) -> str:
    """The names, in order, and how many more there are than `most`."""
    listed = ", ".join(sorted(names)[:most])
    return listed if len(names) <= most else f"{listed} and {len(names) - most} more"
