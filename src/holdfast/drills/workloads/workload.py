"""What a workload is: the operations of a drill, the tables they write, and the state they leave behind.

A workload is written once, against an ordinary session; how that session is committed, retried or lost is the subject's affair.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, ClassVar, TypeVar

if TYPE_CHECKING:
    from sqlalchemy import MetaData
    from sqlalchemy.orm import Session

    from ...clock import Random

__all__ = ["PREFIX", "Call", "Identity", "Refused", "TableWorkload", "Workload", "pick", "whole"]

T = TypeVar("T")

PREFIX = "holdfast_drill_"
"""What the name of every table of a drill begins with."""

_CALLS_PER_PROCESS = 10_000_000


class Refused(Exception):
    """The operation itself says no (too little money, say); rolled back, so nothing was applied."""


@dataclass(frozen=True, slots=True)
class Identity:
    """Which operation of which client process: different for every operation of a drill.

    Attributes:
        process: the client's number; a killed client's successor has one of its own.
        index: which of its operations, from 0.
        drill: a tag of this run, for names that must not have been used in an earlier one.
    """

    process: int
    index: int
    drill: str = "drill"

    @property
    def text(self) -> str:
        """`w<process>-<index>`: the operation's id in tables and in the history."""
        return f"w{self.process}-{self.index}"

    @property
    def number(self) -> int:
        """A whole number that no other operation of the drill has."""
        return self.process * _CALLS_PER_PROCESS + self.index


@dataclass(frozen=True, slots=True)
class Call:
    """One operation to be made.

    Attributes:
        f: the operation's name in the history.
        v: its arguments, plain values that JSON can hold.
        key: the key under which it happens once, however often it is called.
        scope: whose key it is; "" where nobody else has keys.
        reads: it writes nothing.
        cancel_after: seconds after which its caller gives up and cancels it, or None.
    """

    f: str
    v: Mapping[str, Any]
    key: str
    scope: str = ""
    reads: bool = False
    cancel_after: float | None = None


class Workload(ABC):
    """The operations of a drill. One instance serves one client process; generating needs no database.

    Attributes:
        name: what the command line calls it.
        final_name: `f` of the line that holds the final state.
        keyed: its calls share keys on purpose, so whoever has keys must use them.
        reading: the names of operations that write nothing.
    """

    name: ClassVar[str]
    final_name: ClassVar[str]
    keyed: ClassVar[bool] = False
    reading: ClassVar[frozenset[str]] = frozenset()

    @abstractmethod
    def next(self, random: Random, identity: Identity) -> Call:
        """The next operation; the same for the same draws."""

    def again(self, f: str, v: Mapping[str, Any], key: str) -> Call | None:
        """The operation that a history tells of, to be asked for again under its key; None where it wrote nothing."""
        return None if f in self.reading else Call(f, v, key, scope=v.get("tenant", ""))


class TableWorkload(Workload):
    """Operations on tables of the drill's own, through a session.

    Attributes:
        metadata: the tables.
        isolation: the level that it needs to lose nothing, by flavour, where the default does not do.
    """

    metadata: ClassVar[MetaData]
    isolation: ClassVar[Mapping[str, str]] = MappingProxyType({})

    def set_up(self, session: Session) -> None:
        """Add the rows it begins with; the tables are there and empty."""

    @abstractmethod
    def perform(self, session: Session, call: Call) -> dict[str, Any]:
        """Do `call` in an open transaction, without ending it.

        Returns:
            What the caller observes: the `v` of the history's `ok`.

        Raises:
            Refused: the operation says no.
        """

    @abstractmethod
    def final(self, session: Session) -> dict[str, Any]:
        """The state that is in the database now: the `v` of the history's `final`."""


def whole(random: Random, low: int, high: int) -> int:
    """A whole number from `low` to `high`, both included, from one draw."""
    return low + int(random() * (high - low + 1))


def pick(random: Random, items: Sequence[T]) -> T:
    """One of `items`, from one draw."""
    return items[int(random() * len(items))]
