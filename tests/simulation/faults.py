"""What can go wrong, where, and what the server makes of it."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum

__all__ = ["FAULTS", "STEPS", "Delivery", "Fault", "Schedule", "Symptom"]


class Symptom(Enum):
    """What the client notices."""

    REFUSED = "refused"
    """No connection."""
    LOST = "lost"
    """The connection breaks instead of an answer."""
    SILENT = "silent"
    """No answer, until somebody's patience ends."""
    CANCELLED = "cancelled"
    """The task is cancelled, or Ctrl-C is pressed, while the client waits for the answer."""
    MASKED = "masked"
    """As `CANCELLED`, but the driver turns the interruption into an error of its own (a task still knows of it)."""
    CRASHED = "crashed"
    """The client's process ends; nothing it does afterwards has an effect."""
    DEADLOCK = "deadlock"
    """An error; the server has rolled back the transaction."""
    LOCK_WAIT = "lock wait"
    """An error; the server has rolled back this one statement only (at COMMIT: all)."""
    REJECTED = "rejected"
    """An error that will come again; the server has rolled back this one statement only (at COMMIT: all)."""
    OVERLOADED = "overloaded"
    """The server has too much to do."""
    UNSURE = "unsure"
    """An error in answer to COMMIT that does not tell whether it was done (1180). The connection is in order."""
    RAISED = "raised"
    """The body raises an error of its own."""
    DAWDLED = "dawdled"
    """The body does something of its own for nearly as long as a whole call may take."""
    EXITED = "exited"
    """The body raises `SystemExit`."""
    THERE = "there"
    """The server was there all along: the failure was the operation's own."""
    GONE = "gone"
    """The server does not come back before the deadline."""
    FORGOTTEN = "forgotten"
    """Asked for a transaction's status, the server says that it no longer knows."""


class Delivery(Enum):
    """What the server makes of a request that the client gets no answer to."""

    NEVER = "never"
    """It never comes, and the server sees at once that the client is gone."""
    GHOST = "ghost"
    """A COMMIT never comes, anything else is done; the transaction lives on until the server sees that its client is gone."""
    DONE = "done"
    """It is done; then the server sees that the client is gone."""
    LATE = "late"
    """A COMMIT that is done later, before the deadline."""
    TOO_LATE = "too late"
    """A COMMIT that is done after the deadline."""


@dataclass(frozen=True, slots=True)
class Fault:
    """One thing that goes wrong. `transient`: another attempt of the same call can mend it."""

    name: str
    symptom: Symptom
    delivery: Delivery = Delivery.NEVER
    transient: bool = False


_CANCELS = (
    Fault("cancel-before", Symptom.CANCELLED, Delivery.NEVER),
    Fault("cancel-after", Symptom.CANCELLED, Delivery.DONE),
)
_MASKED = Fault("cancel-masked", Symptom.MASKED, Delivery.DONE)
_CRASHES = (
    Fault("crash-before", Symptom.CRASHED, Delivery.GHOST, transient=True),
    Fault("crash-after", Symptom.CRASHED, Delivery.DONE, transient=True),
)
_DEADLOCK = Fault("deadlock", Symptom.DEADLOCK, transient=True)
_LOCK_WAIT = Fault("lock-wait", Symptom.LOCK_WAIT, transient=True)
_REJECTED = Fault("rejected", Symptom.REJECTED)
_OVERLOADED = Fault("overloaded", Symptom.OVERLOADED, transient=True)
_REFUSED = Fault("refused", Symptom.REFUSED, transient=True)
_SILENT = Fault("silent-before", Symptom.SILENT, Delivery.NEVER)
_LOST = Fault("lost-before", Symptom.LOST, Delivery.NEVER, transient=True)

_STATEMENT = (
    _LOST,
    Fault("lost-ghost", Symptom.LOST, Delivery.GHOST, transient=True),
    _SILENT,
    Fault("silent-ghost", Symptom.SILENT, Delivery.GHOST),
    *_CANCELS,
    _MASKED,
    *_CRASHES,
    _DEADLOCK,
    _LOCK_WAIT,
    _REJECTED,
    _OVERLOADED,
)

FAULTS: dict[str, tuple[Fault, ...]] = {
    "begin": (_REFUSED, _LOST, _SILENT, *_CANCELS, *_CRASHES, _REJECTED, _OVERLOADED),
    "claim": _STATEMENT,
    "debit": _STATEMENT,
    "credit": (
        *_STATEMENT,
        Fault("raised", Symptom.RAISED),
        Fault("exited", Symptom.EXITED),
        Fault("dawdled", Symptom.DAWDLED),
    ),
    "store": _STATEMENT,
    "commit": (
        _LOST,
        Fault("lost-ghost", Symptom.LOST, Delivery.GHOST, transient=True),
        Fault("lost-after", Symptom.LOST, Delivery.DONE, transient=True),
        Fault("lost-late", Symptom.LOST, Delivery.LATE, transient=True),
        Fault("lost-too-late", Symptom.LOST, Delivery.TOO_LATE),
        _SILENT,
        Fault("silent-after", Symptom.SILENT, Delivery.DONE),
        Fault("silent-too-late", Symptom.SILENT, Delivery.TOO_LATE),
        *_CANCELS,
        Fault("cancel-late", Symptom.CANCELLED, Delivery.LATE),
        _MASKED,
        *_CRASHES,
        Fault("crash-late", Symptom.CRASHED, Delivery.LATE, transient=True),
        Fault("crash-too-late", Symptom.CRASHED, Delivery.TOO_LATE),
        _DEADLOCK,
        _LOCK_WAIT,
        _REJECTED,
        Fault("unsure-before", Symptom.UNSURE, Delivery.NEVER, transient=True),
        Fault("unsure-after", Symptom.UNSURE, Delivery.DONE, transient=True),
        Fault("unsure-late", Symptom.UNSURE, Delivery.LATE, transient=True),
    ),
    "rollback": (
        _LOST,
        Fault("lost-ghost", Symptom.LOST, Delivery.GHOST, transient=True),
        _SILENT,
        *_CANCELS,
        _MASKED,
        *_CRASHES,
        _REJECTED,
    ),
    "discard": (_CANCELS[0], _CRASHES[0]),
    "sleep": (_CANCELS[0], _CRASHES[0]),
    "await": (
        Fault("there", Symptom.THERE, transient=True),
        Fault("gone", Symptom.GONE),
        Fault("refused", Symptom.REFUSED),
        _CANCELS[0],
        _CRASHES[0],
    ),
    "probe": (
        _REFUSED,
        _LOST,
        _SILENT,
        _CANCELS[0],
        _CRASHES[0],
        _REJECTED,
        Fault("forgotten", Symptom.FORGOTTEN),
    ),
}
"""The faults that each step can meet."""

STEPS = tuple(FAULTS)


class Schedule:
    """Which fault comes at which step: `commit.1=lost-after begin.2=refused` (the first COMMIT, the second BEGIN).

    `deadlock` at every COMMIT is written `commit.*=deadlock`.
    """

    __slots__ = ("_faults", "entries")

    def __init__(self, entries: tuple[tuple[str, str, Fault], ...] = ()) -> None:
        self.entries = entries
        self._faults = {(step, which): fault for step, which, fault in entries}

    @classmethod
    def parse(cls, text: str) -> Schedule:
        """The schedule that `text` spells."""
        entries = []
        for entry in text.split():
            place, _, name = entry.partition("=")
            step, _, which = place.partition(".")
            (fault,) = (fault for fault in FAULTS[step] if fault.name == name)
            entries.append((step, which, fault))
        return cls(tuple(entries))

    def __str__(self) -> str:
        return " ".join(f"{step}.{which}={fault.name}" for step, which, fault in self.entries)

    def __len__(self) -> int:
        return len(self.entries)

    def then(self, step: str, which: int, fault: Fault) -> Schedule:
        """This schedule with one fault more."""
        return Schedule((*self.entries, (step, str(which), fault)))

    def at(self, step: str, which: int) -> Fault | None:
        """The fault that comes when `step` is made for the `which`-th time."""
        if not self._faults:
            return None
        return self._faults.get((step, str(which))) or self._faults.get((step, "*"))
