"""What saves inside an operation have put into the caller's objects, and how it is taken back when the transaction is undone.

The body needs the key of what it has saved, for a foreign key say. But an object that kept it after a rollback would, when it is
saved again, overwrite the row that has got the key meanwhile.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

from sqlalchemy.orm.attributes import instance_dict, set_committed_value

if TYPE_CHECKING:
    from .unit import Hook, Unit

__all__ = ["ABSENT", "Change", "Given", "Givings", "givings_of"]

ABSENT = object()
"""In the place of a value: the object holds none."""

Change = tuple[Any, str, Any, Any]
"""Object, attribute, what it held before, what it was given."""


class Given:
    """What one save has put into the caller's objects."""

    __slots__ = ("_changes", "_taken_back")

    def __init__(self, changes: list[Change]) -> None:
        self._changes = changes
        self._taken_back = False

    def take_back(self) -> None:
        """The transaction was not committed, or nobody knows yet. What the caller has changed since stays."""
        for obj, key, before, value in reversed(self._changes):
            if instance_dict(obj).get(key, ABSENT) is value:
                _put(obj, key, before)
        self._taken_back = True

    def forget(self) -> None:
        """As `take_back`, for good."""
        self.take_back()
        self._changes = []

    def give_again(self) -> None:
        """It is known to be committed after all."""
        if self._taken_back:
            for obj, key, before, value in self._changes:
                if instance_dict(obj).get(key, ABSENT) is before:
                    _put(obj, key, value)


def _put(obj: Any, key: str, value: Any) -> None:
    if value is ABSENT:
        instance_dict(obj).pop(key, None)
    else:
        set_committed_value(obj, key, value)


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
