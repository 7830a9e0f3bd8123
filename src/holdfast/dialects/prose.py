"""What an error code means, in sentences: what the server did with the transaction, and what Holdfast does, stage by stage.

The tables say what an error means; this file says it to a person. It adds one fact to each row, the `Effect` on the transaction,
as it was measured on live servers or stands in the vendors' manuals; a test compares it with `tests/data/error_facts.json`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum

from ..deadline import seconds
from ..decision import RetryPolicy
from ..errors import error_for
from ..outcome import Failure, FailureClass, Rejection, Stage
from .classifier import explain
from .flavour import Flavour
from .rows import Row, class_at

__all__ = ["AtStage", "Effect", "Explanation", "describe", "effect_of"]


class Effect(StrEnum):
    """What an error did to the transaction that was open when it came."""

    REFUSED = "refused"
    """There was no session yet, or the server took none."""
    NOTHING = "nothing"
    """The statement had no effect; the transaction stays open."""
    STATEMENT = "statement"
    """This statement was undone; the transaction stays open with all that came before."""
    TRANSACTION = "transaction"
    """The whole transaction was rolled back."""
    FAILED = "failed"
    """PostgreSQL: the transaction is marked as failed and takes nothing but ROLLBACK."""
    CONNECTION = "connection"
    """The session is gone, and its transaction with it, once the server has noticed."""
    MAYBE = "maybe"
    """SQLite: the transaction may have been rolled back with the statement."""
    UNKNOWN = "unknown"
    """It cannot be told."""


_SENTENCES = {
    Effect.REFUSED: "no session came to be, so there was no transaction",
    Effect.NOTHING: "nothing: the statement had no effect, and the transaction is still open",
    Effect.STATEMENT: "undid this statement alone: the transaction is still open, with everything before it",
    Effect.TRANSACTION: "rolled back the whole transaction",
    Effect.FAILED: "marked the transaction as failed: it takes nothing but ROLLBACK, and COMMIT would roll back without an error",
    Effect.CONNECTION: "rolls back as soon as it notices that the connection is gone; until then the locks stay",
    Effect.MAYBE: "may have rolled back the whole transaction, or the statement alone",
    Effect.UNKNOWN: "cannot be told from this answer",
}
_NO_TRANSACTION = "nothing: no transaction was open"
_NO_WORK = "nothing: the transaction had no work in it yet"
_ABORTED = (
    "rolled back the whole transaction: nothing was committed. A second COMMIT would answer OK, with nothing in it"
)
_ABORTED_POSTGRESQL = "rolled back the whole transaction: nothing was committed"
_STILL_OPEN = "committed nothing: the transaction is still open"
_IN_DOUBT = "committed it or rolled it back: this answer does not say which"

_MYSQL_FAMILY = (Flavour.MYSQL, Flavour.MARIADB)

_FAMILY_EFFECTS: dict[int | str, Effect] = {
    **dict.fromkeys((1206, 1213, 1297, 1402, 1613, 1614, 1622, 1964, 3101), Effect.TRANSACTION),
    **dict.fromkeys((1180, 1181, 1598, 1815, 2000, 2008, 3100, 4173, 9001, 9002, 9003, 9004, 9006), Effect.UNKNOWN),
    **dict.fromkeys((1135, 1203, 1226, 2061), Effect.REFUSED),
    **dict.fromkeys((1046, 1047, 1179, 1223, 1227, 1235, 1305, 1399, 1461, 1568, 2020), Effect.NOTHING),
    **dict.fromkeys(
        (3058, 3098, 3132, 3133, 3170, 3781, 3782, 3796, 3797, 3798, 3799, 3985, 3989, 4165), Effect.NOTHING
    ),
}
_POSTGRESQL_EFFECTS: dict[int | str, Effect] = {
    **dict.fromkeys(("40000", "40001", "40002", "40P01"), Effect.TRANSACTION),
    **dict.fromkeys(("08007", "40003", "58000", "58030", "XX000", "XX001", "XX002"), Effect.UNKNOWN),
    **dict.fromkeys(("25P04", "57P04"), Effect.CONNECTION),
    "26000": Effect.FAILED,
}
_SQLITE_EFFECTS: dict[int | str, Effect] = {
    **dict.fromkeys((4, 516), Effect.TRANSACTION),
    **dict.fromkeys((5, 6, 8, 26, 261, 262, 517, 773), Effect.NOTHING),
    **dict.fromkeys((7, 9, 10), Effect.MAYBE),
    11: Effect.UNKNOWN,
}

_LOCK_WAIT = "With innodb_rollback_on_timeout = ON a wait for a row's lock takes back the whole transaction, one for a table does not."
_DEADLOCK = (
    "What follows in the same session is committed at once, statement by statement, until BEGIN. After a deadlock between GET_LOCK "
    "calls alone MariaDB leaves the transaction open."
)
_INTERRUPTED = "An interrupted read leaves the transaction open, an interrupted write rolls it back."
_CANCELLED_COMMIT = "A COMMIT whose wait for a synchronous standby is cancelled answers with success: it is committed here, and perhaps nowhere else."
_REMARKS: dict[tuple[Flavour, int | str], str] = {
    **{(flavour, 1205): _LOCK_WAIT for flavour in _MYSQL_FAMILY},
    **{(flavour, 1213): _DEADLOCK for flavour in _MYSQL_FAMILY},
    (Flavour.SQLITE, 9): _INTERRUPTED,
    (Flavour.POSTGRESQL, "57014"): _CANCELLED_COMMIT,
}

_NO_SESSION = (Rejection.WRONG_LOGIN, Rejection.MISSING_DATABASE, Rejection.ACCESS_DENIED)
"""Refusals that leave no usable connection: it never came to be."""


def effect_of(flavour: Flavour, row: Row) -> Effect:
    """What an error of `row` did to the open transaction, before COMMIT was sent."""
    if flavour in _MYSQL_FAMILY:
        known = _FAMILY_EFFECTS.get(row.code)
        otherwise = Effect.STATEMENT if row.connection_usable else Effect.CONNECTION
        if (flavour, row.code) == (Flavour.MARIADB, 1020) or (row.code in (1047, 1180) and row.text is not None):
            known = Effect.TRANSACTION  # a snapshot that is too old; a Galera node cut off; a group that said no
    elif flavour is Flavour.POSTGRESQL:
        known, otherwise = _POSTGRESQL_EFFECTS.get(row.code), Effect.FAILED
    else:
        known, otherwise = _SQLITE_EFFECTS.get(row.code), Effect.STATEMENT
    if known is not None:
        return known
    if row.failure_class is FailureClass.UNSENT or (not row.connection_usable and row.rejection in _NO_SESSION):
        return Effect.REFUSED
    return Effect.CONNECTION if row.failure_class is FailureClass.LOST else otherwise


@dataclass(frozen=True, slots=True)
class AtStage:
    """What an error means at one stage.

    Attributes:
        stage: where the error came.
        failure_class: what it means there.
        server: what the server did with the transaction.
        holdfast: what Holdfast does.
    """

    stage: Stage
    failure_class: FailureClass
    server: str
    holdfast: str


@dataclass(frozen=True, slots=True)
class Explanation:
    """What one code means to one flavour, or to several that agree.

    Attributes:
        flavours: whose code it is.
        code: the number, SQLSTATE or result code, as the table has it.
        name: the vendor's name for it; empty where it is not known.
        meaning: one sentence.
        only_if: the pattern that the message must contain for it to mean this, or None.
        remark: what else is worth knowing; may be empty.
        stages: what it means at each stage, in their order.
        known: whether the flavour's table has it.
    """

    flavours: tuple[Flavour, ...]
    code: int | str
    name: str
    meaning: str
    only_if: str | None
    remark: str
    stages: tuple[AtStage, ...]
    known: bool = True


def describe(code: str, flavours: Sequence[Flavour] = tuple(Flavour), message: str = "") -> tuple[Explanation, ...]:
    """What `code` means to each of `flavours`; those that agree share one explanation. Pure.

    Args:
        code: a number, an SQLSTATE or a SQLite result code, as text.
        flavours: whose it may be; default all.
        message: the server's text, for the few numbers that mean several things; empty to hear of each.

    Returns:
        One explanation or more, in the order of `flavours`. Of several flavours those that do not know the code stay away, except
        that MySQL and MariaDB, which are often taken for each other, are told apart. Where no flavour knows it there is one with
        `known` False.
    """
    of_each = {flavour: _rows_of(flavour, code, message, alone=len(flavours) == 1) for flavour in flavours}
    told = [(flavour, row) for flavour, rows in of_each.items() for row in rows]
    groups: dict[tuple[Row, str], list[Flavour]] = {}
    for flavour, row in told:
        groups.setdefault((row, _REMARKS.get((flavour, row.code), "")), []).append(flavour)
    found = [_explanation(tuple(agreed), row, remark) for (row, remark), agreed in groups.items()]
    family = [flavour for flavour in flavours if flavour in _MYSQL_FAMILY]
    silent = [flavour for flavour in family if not of_each[flavour]]
    if not told:
        found.append(_unknown(tuple(flavours), code))
    elif silent and len(silent) < len(family):
        found.append(_unknown(tuple(silent), code))
    return tuple(found)


def _rows_of(flavour: Flavour, code: str, message: str, *, alone: bool) -> tuple[Row, ...]:
    """The rows of `flavour` for `code`; with a message the one that applies to it."""
    rows: tuple[Row, ...]
    if flavour is Flavour.POSTGRESQL:
        rows = explain(flavour, code.upper()) if len(code) in (2, 5) else ()
    elif not code.removeprefix("-").isdecimal() or (len(code) == 5 and code[0] == "0"):
        rows = ()
    else:
        rows = explain(flavour, int(code))
        # Any number's low byte is some primary code of SQLite's. That of another server's number means nothing.
        if flavour is Flavour.SQLITE and not alone and rows and rows[0].code != int(code) and int(code) >= 1000:
            rows = ()
    if not message:
        return rows
    applying = [row for row in rows if row.applies_to(message)]
    return tuple(applying[:1])


def _explanation(flavours: tuple[Flavour, ...], row: Row, remark: str) -> Explanation:
    stages = tuple(_at(stage, flavours[0], row) for stage in Stage)
    return Explanation(flavours, row.code, row.name, row.note, row.text, remark, stages)


def _unknown(flavours: tuple[Flavour, ...], code: str) -> Explanation:
    row = Row(code, "", FailureClass.PERMANENT, "Holdfast has no such code in its tables", rejection=Rejection.OTHER)
    stages = tuple(_at(stage, None, row) for stage in Stage)
    return Explanation(flavours, code, "", row.note, None, "", stages, known=False)


def _at(stage: Stage, flavour: Flavour | None, row: Row) -> AtStage:
    failure_class = class_at(stage, row.failure_class, aborts_commit=row.aborts_commit)
    return AtStage(stage, failure_class, _server(stage, flavour, row), _action(failure_class, row, stage))


def _server(stage: Stage, flavour: Flavour | None, row: Row) -> str:
    if stage is Stage.CONNECT:
        return _NO_TRANSACTION
    if stage is Stage.BEGIN:
        return _NO_WORK
    if stage is Stage.BODY:
        return _SENTENCES[Effect.UNKNOWN if flavour is None else effect_of(flavour, row)]
    if not row.aborts_commit:
        return _IN_DOUBT
    if flavour is Flavour.SQLITE:
        return _STILL_OPEN
    return _ABORTED_POSTGRESQL if flavour is Flavour.POSTGRESQL else _ABORTED


def _action(failure_class: FailureClass, row: Row, stage: Stage) -> str:
    raised = type(error_for(Failure(failure_class, stage, rejection=row.rejection))).__name__
    if row.hides_cause and stage is not Stage.COMMIT:
        return "looks for the earlier error that this one only reports, and acts on that one"
    if failure_class is FailureClass.AMBIGUOUS:
        return (
            "closes the connection and finds out, by the key row or on PostgreSQL by pg_xact_status: committed, it returns the "
            "result; not committed, it runs the whole unit again. The deadline bounds it: without time to find out it raises "
            f"{raised}"
        )
    first = _first(failure_class, row, stage)
    if failure_class not in RetryPolicy().allowances:
        return f"{first}raises {raised} without another attempt"
    again = "tries again" if stage is Stage.CONNECT else "runs the whole unit again in a fresh session"
    return f"{first}{again}: {_pace(failure_class)}; then it raises {raised}"


def _first(failure_class: FailureClass, row: Row, stage: Stage) -> str:
    """What Holdfast does before it decides about another attempt."""
    if failure_class is FailureClass.ROLE_CHANGED:
        return "replaces every pooled connection, then "
    if stage is Stage.CONNECT:
        return ""
    gone = not row.connection_usable or failure_class in (FailureClass.LOST, FailureClass.UNSENT)
    return "closes the connection, then " if gone else "rolls back, then "


def _pace(failure_class: FailureClass) -> str:
    """How often and how soon, by the default policy."""
    allowance = RetryPolicy().allowances[failure_class]
    first_s, longest_s = seconds(allowance.backoff.base), seconds(allowance.backoff.cap)
    return f"{allowance.attempts} attempts in all, random waits, the first below {_time(first_s)}, none above {_time(longest_s)}"


def _time(duration_s: float) -> str:
    return f"{duration_s * 1000:g} ms" if duration_s < 1 else f"{duration_s:g} s"
