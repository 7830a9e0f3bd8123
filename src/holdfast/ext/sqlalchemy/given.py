"""What saves inside an operation have put into the caller's objects, and how it is taken back when the transaction is undone.

The body needs the key of what it has saved, for a foreign key say. But an object that kept it after a rollback would, when it is
saved again, overwrite the row that has got the key meanwhile.

An object that was made, not read, stays without a session and without SQLAlchemy's mark of a row: what it does not hold is empty,
as the program is used to, and no error. That it has been saved, and as which row, is remembered here instead.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple, Protocol, TypeAlias
from weakref import WeakKeyDictionary, ref

from sqlalchemy.orm.attributes import instance_state, set_committed_value

if TYPE_CHECKING:
    from sqlalchemy.orm import InstanceState, Session

    from .unit import Hook, Unit

__all__ = [
    "ABSENT",
    "Change",
    "Database",
    "Given",
    "Giving",
    "Givings",
    "Row",
    "Saved",
    "Settled",
    "database_of",
    "givings_of",
    "was_saved_as",
]

ABSENT = object()
"""In the place of a value: the object holds none."""

Database: TypeAlias = "ref[Any]"
"""Whose rows they are: its engine, which nothing here keeps."""


class Row(NamedTuple):
    """One row of one database; `key` is SQLAlchemy's name for it, as in `InstanceState.key`."""

    database: Database
    key: tuple[Any, ...]


_rows: WeakKeyDictionary[InstanceState[Any], Row] = WeakKeyDictionary()
"""Of the objects that were made and saved, as which row."""


def database_of(session: Session) -> Database:
    """The database of a session of Holdfast's."""
    return ref(session.get_bind())


def was_saved_as(state: InstanceState[Any], row: Row) -> bool:
    """Whether that row was written from the object, or the object read from it: what it notes since are changes.

    Of what was read nobody knows from which database.
    """
    return row.key == state.key or row == _rows.get(state)


class Giving(Protocol):
    """One thing that was done to one of the caller's objects."""

    def give(self) -> None:
        """Do it."""

    def take_back(self) -> None:
        """Undo it."""

    @property
    def is_there(self) -> bool:
        """Whether it stands as it was done: the caller has done nothing to it since."""

    @property
    def is_undone(self) -> bool:
        """The same of what was there before."""


class Saved(NamedTuple):
    """The object has a row.

    Attributes:
        obj: which; it was made, not read.
        before: the row that it had been saved as, if it had.
        row: the one it is saved as now.
    """

    obj: Any
    before: Row | None
    row: Row

    @classmethod
    def of(cls, obj: Any, row: Row) -> Saved:
        """It is saved as `row` now."""
        return cls(obj, _rows.get(instance_state(obj)), row)

    def give(self) -> None:
        """Remember it."""
        _rows[instance_state(self.obj)] = self.row

    def take_back(self) -> None:
        """Forget it."""
        if self.before is None:
            _rows.pop(instance_state(self.obj), None)
        else:
            _rows[instance_state(self.obj)] = self.before

    @property
    def is_there(self) -> bool:
        """Whether that is what is remembered."""
        return _rows.get(instance_state(self.obj)) == self.row

    @property
    def is_undone(self) -> bool:
        """Whether what was before is."""
        return _rows.get(instance_state(self.obj)) == self.before


class Settled(NamedTuple):
    """A change of a relationship is saved.

    Attributes:
        obj, key: of which object, and which of its relationships.
        noted: what SQLAlchemy had noted to have been there before the change.
    """

    obj: Any
    key: str
    noted: Any

    def give(self) -> None:
        """No change is left to be saved."""
        del instance_state(self.obj).committed_state[self.key]

    def take_back(self) -> None:
        """It is to be saved again."""
        instance_state(self.obj).committed_state[self.key] = self.noted

    @property
    def is_there(self) -> bool:
        """Whether nothing was changed since."""
        return self.key not in instance_state(self.obj).committed_state

    @property
    def is_undone(self) -> bool:
        """Whether the change is still to be saved."""
        return instance_state(self.obj).committed_state.get(self.key, ABSENT) is self.noted


class Change(NamedTuple):
    """One attribute of one of the caller's objects.

    Attributes:
        obj, key: which.
        before: what it held.
        noted: what SQLAlchemy had noted to have been there before the caller's own change; `ABSENT` where he had made none.
        value: what it was given: that of the row, so nothing is to be saved any more.
    """

    obj: Any
    key: str
    before: Any
    noted: Any
    value: Any

    def give(self) -> None:
        """Put the value in."""
        set_committed_value(self.obj, self.key, self.value)
        self._forget_composites()

    def take_back(self) -> None:
        """Put back what it held; a change of the caller's is to be saved again."""
        state = instance_state(self.obj)
        if self.before is ABSENT:
            state.dict.pop(self.key, None)
        else:
            set_committed_value(self.obj, self.key, self.before)
        if self.noted is not ABSENT:
            state.committed_state[self.key] = self.noted
        self._forget_composites()

    def _forget_composites(self) -> None:
        """What SQLAlchemy has made of several columns; it makes it again when it is asked for."""
        state = instance_state(self.obj)
        for composite in state.mapper.composites if self.value is not self.before else ():
            if any(prop.key == self.key for prop in composite.props):
                state.dict.pop(composite.key, None)

    @property
    def is_there(self) -> bool:
        """Whether the object holds the value."""
        return self._held is self.value

    @property
    def is_undone(self) -> bool:
        """Whether it holds what it held before."""
        return self._held is self.before

    @property
    def _held(self) -> Any:
        return instance_state(self.obj).dict.get(self.key, ABSENT)


class Given:
    """What one save has put into the caller's objects."""

    __slots__ = ("_changes", "_taken_back")

    def __init__(self, changes: list[Giving]) -> None:
        self._changes = changes
        self._taken_back = False

    def take_back(self) -> None:
        """The transaction was not committed, or nobody knows yet. What the caller has changed since stays."""
        for change in reversed(self._changes):
            if change.is_there:
                change.take_back()
        self._taken_back = True

    def forget(self) -> None:
        """As `take_back`, for good."""
        self.take_back()
        self._changes = []

    def give_again(self) -> None:
        """It is known to be committed after all."""
        if self._taken_back:
            for change in self._changes:
                if change.is_undone:
                    change.give()


class _Savepoint(NamedTuple):
    """One that has begun, and how many hooks there were then."""

    name: str
    hooks: int


class Givings:
    """What the saves of one attempt have given, and the savepoints between them. Used by one thread or task."""

    __slots__ = ("_entries",)

    def __init__(self) -> None:
        self._entries: list[Given | _Savepoint] = []

    def add(self, given: Given) -> None:
        """A save gave something."""
        self._entries.append(given)

    def mark(self, savepoint: str, hooks: int) -> None:
        """A savepoint begins: what is given from here on goes with it, and the hooks beyond `hooks`."""
        self._entries.append(_Savepoint(savepoint, hooks))

    def savepoints(self) -> frozenset[str]:
        """Those that were set so far, also if they are over by now; no two of a transaction have one name."""
        return frozenset(entry.name for entry in self._entries if isinstance(entry, _Savepoint))

    def take_back_to(self, savepoint: str, hooks: list[Hook]) -> None:
        """A savepoint was rolled back: what was given since is taken back, and of `hooks` those are left out that came since."""
        entries = self._entries
        began = next((entry for entry in entries if isinstance(entry, _Savepoint) and entry.name == savepoint), None)
        if began is None:
            return
        while entries[-1] is not began:
            last = entries.pop()
            if isinstance(last, Given):
                last.forget()
        del hooks[began.hooks :]

    def take_back(self) -> None:
        """The attempt ends without a COMMIT that is known."""
        for given in reversed(self._entries):
            if isinstance(given, Given):
                given.take_back()
        self._entries = []


def givings_of(unit: Unit[Any]) -> Givings:
    """Those of the attempt that `unit` makes now; most have none."""
    if unit.givings is None:
        unit.givings = Givings()
    return unit.givings
