"""What saves inside an operation have put into the caller's objects, and how it is taken back when the transaction is undone.

The body needs the key of what it has saved, for a foreign key say. But an object that kept it after a rollback would, when it is
saved again, overwrite the row that has got the key meanwhile.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

from sqlalchemy.orm.attributes import instance_state, set_committed_value

if TYPE_CHECKING:
    from .unit import Hook, Unit

__all__ = ["ABSENT", "Change", "Given", "Givings", "givings_of"]

ABSENT = object()
"""In the place of a value: the object holds none."""


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

    def holds(self, value: Any) -> bool:
        """Whether the object holds that now."""
        return instance_state(self.obj).dict.get(self.key, ABSENT) is value


class Given:
    """What one save has put into the caller's objects."""

    __slots__ = ("_changes", "_taken_back")

    def __init__(self, changes: list[Change]) -> None:
        self._changes = changes
        self._taken_back = False

    def take_back(self) -> None:
        """The transaction was not committed, or nobody knows yet. What the caller has changed since stays."""
        for change in reversed(self._changes):
            if change.holds(change.value):
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
                if change.holds(change.before):
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
