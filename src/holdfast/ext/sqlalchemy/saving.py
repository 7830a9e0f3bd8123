"""What `save` does to objects: validate, prepare their keys, write copies, and hand back what the database made of them.

Every attempt writes fresh copies, because an object that was flushed and rolled back keeps its generated primary key and would be
inserted with it the next time. What is related to an object, and loaded, is saved with it: so all of it is validated, and gets
its keys, or the next save would insert it again.
"""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Coroutine, Iterable, Iterator, Sequence
from contextlib import contextmanager
from enum import Enum
from inspect import isawaitable
from typing import TYPE_CHECKING, Any, Generic, NamedTuple, TypeVar

import sqlalchemy
from sqlalchemy import inspect
from sqlalchemy.exc import NoInspectionAvailable
from sqlalchemy.orm import InstanceState, Mapper, RelationshipProperty, Session
from sqlalchemy.orm.collections import collection_adapter

from ...errors import (
    ConfigurationError,
    ForeignTransaction,
    HoldfastError,
    NotLoaded,
    ResultNotSerializable,
    UsageError,
    attach_report,
    error_for,
    report_of,
)
from ...operation import JsonCodec, qualified_name
from ...outcome import Failure, FailureClass, Outcome, Rejection, Stage
from .attached import Led, stand_ins
from .checking import call_validate, check_columns, check_lengths, made_keys, refused, written_columns
from .copying import Copies, load_held, loaded, put
from .given import ABSENT, Change, Database, Given, Giving, Row, Saved, Settled, database_of, givings_of

if TYPE_CHECKING:
    from .unit import Unit

__all__ = ["Identities", "IdentityCodec", "Pair", "Saving", "give_back"]

M = TypeVar("M")

_LARGEST = 2**63 - 1
"""Of SQLite's integers, whose driver refuses a larger one by Python's own OverflowError. Servers say it themselves."""


class Pair(NamedTuple):
    """The caller's object, the copy of it that an attempt wrote or a replay loaded, and in which database."""

    original: Any
    copy: Any
    database: Database


def _state_of(obj: Any) -> InstanceState[Any]:
    try:
        state = inspect(obj)
    except NoInspectionAvailable:
        state = None
    if not isinstance(state, InstanceState):
        raise ConfigurationError(f"save() takes instances of mapped classes, not {type(obj).__name__}")
    return state


class Saving(Generic[M]):
    """One call of `save_all`: the objects, and everything that is saved with them. Used by one caller.

    Attributes:
        objects: the caller's, in order.
        name: the operation's name: `save.User`, or `save` for a mixture.
    """

    __slots__ = ("_leads", "_links", "_made", "_reached", "_unsure", "name", "objects")

    def __init__(self, objs: Iterable[M]) -> None:
        if isinstance(objs, (str, bytes)) or not isinstance(objs, Iterable):
            raise ConfigurationError(
                f"save_all() takes a list, not one {type(objs).__name__}; save() is for one object"
            )
        self.objects: list[M] = list(objs)
        names = {type(obj).__name__ for obj in self.objects}
        self.name = f"save.{names.pop()}" if len(names) == 1 else "save"
        self._reached: list[Any] = []
        self._leads: list[Led] = []
        self._links: list[tuple[int, int]] = []
        self._made: dict[int, dict[str, Any]] = {}
        self._unsure: list[Any] = []

    def check(self) -> None:
        """Refuse what the database would refuse, before it is asked; then make the keys that Python makes.

        Each object's own `validate()` method is called if it has one that takes no arguments. Then each column: a value where one
        is needed, and text no longer than its column; where a listener may still change that, when it has.

        Raises:
            ConfigurationError: an object is no instance of a mapped class, or its `validate()` is a coroutine function.
            UsageError: two objects of the caller's have one primary key.
            ForeignTransaction: it belongs to a session of the caller's.
            InvalidData: a value is missing or too long; names the table and columns, not the value.
            Exception: whatever an object's `validate()` raises.
        """
        for obj, state in self._reach():
            returned = call_validate(obj)
            if returned is not None and isawaitable(returned):
                if isinstance(returned, Coroutine):
                    returned.close()
                raise ConfigurationError(
                    f"{type(obj).__name__}.validate() is a coroutine function, which Database cannot await; make it a plain "
                    "method, or use AsyncDatabase"
                )
            self._check_columns(obj, state)
        self._refuse_twins()
        self._make_keys()

    async def check_async(self) -> None:
        """As `check`; awaits each object's `validate()` if it can be."""
        for obj, state in self._reach():
            returned = call_validate(obj)
            if returned is not None and isawaitable(returned):
                await returned
            self._check_columns(obj, state)
        self._refuse_twins()
        self._make_keys()

    def _check_columns(self, obj: Any, state: InstanceState[Any]) -> None:
        if not check_columns(state):
            self._unsure.append(obj)

    def _reach(self) -> Iterator[tuple[Any, InstanceState[Any]]]:
        """Each object once, the caller's first, then what they lead to; `validate()` may still change what that is."""
        waiting: list[Any] = list(self.objects)
        seen: set[int] = set()
        named = len(waiting)
        for position, obj in enumerate(waiting):  # it grows on the way
            if id(obj) in seen:
                continue
            seen.add(id(obj))
            state = _state_of(obj)
            if state.session_id is not None:
                if position >= named and state.key is not None:
                    continue  # its session looks after it
                raise ForeignTransaction(
                    f"save() was given a {type(obj).__name__} that belongs to a session; it works in a session of its own, new "
                    "at every attempt: expunge the object first, or save inside a transaction function with tx.add()"
                )
            self._reached.append(obj)
            yield obj, state
            for relationship in loaded(state):
                members = _members(state, relationship)
                waiting += members
                for member in members:
                    if (led_to := _state_of(member)).session_id is not None:
                        self._leads.append(Led(obj, relationship, led_to))
                    self._links.append((id(obj), id(member)))

    def _refuse_twins(self) -> None:
        """Of two that are one row only the last would be saved, and both would look like it."""
        if len(self.objects) == 1:
            return
        seen: dict[tuple[type[Any], tuple[Any, ...]], Any] = {}
        for obj in self.objects:
            state = _state_of(obj)
            mapper = state.mapper
            known = _primary_key_of(state)
            key = tuple(known.get(mapper.get_property_by_column(column).key) for column in mapper.primary_key)
            if None not in key and seen.setdefault((mapper.base_mapper.class_, key), obj) is not obj:
                raise UsageError(
                    f"save_all() was given two objects of {type(obj).__name__} with the same primary key; leave one out"
                )

    def _make_keys(self) -> None:
        for obj in self._reached:
            made = made_keys(_state_of(obj))
            if made:
                self._made[id(obj)] = made

    def described(self) -> list[Any]:
        """What is asked to be saved, for the fingerprint: class names, loaded column values, and who is related to whom."""
        places = {id(obj): place for place, obj in enumerate(self._reached)}
        return [_description(_state_of(obj), places) for obj in self._reached]

    def write(self, session: Session) -> list[Pair]:
        """Write copies in `session`, with all that the database made of them; the pairs, the caller's objects first.

        Raises:
            InvalidData: a number is too large for any integer of the database's, or a text for its column as a listener left it.
        """
        try:
            copies = self._copies(session)
            session.flush()
        except OverflowError as error:
            raise self._too_large() from error
        for obj in self._unsure:
            check_lengths(_state_of(copies[id(obj)]))
        database = database_of(session)
        pairs = [Pair(obj, copies[id(obj)], database) for obj in self._reached]
        for pair in pairs:
            load_held(_state_of(pair.original), _state_of(pair.copy))
        return pairs

    def _copies(self, session: Session) -> dict[int, Any]:
        """A copy of everything in `session`, with the keys that Python makes, by the ids of the originals.

        In the caller's order, which is that of their rows where no relationship tells another; but what others lead to comes with
        those, and what hangs together is written at once, as a row may need the keys of several.
        """
        with session.no_autoflush:
            made = Copies(session, stand_ins(session, self._leads))
        copies: dict[int, Any] = {}
        for group in self._groups():
            session.flush()
            with session.no_autoflush:
                for obj in group:
                    copies[id(obj)] = copy = made.of(_state_of(obj))
                    for attribute, value in self._made.get(id(obj), {}).items():
                        put(_state_of(copy), attribute, value)
        return copies

    def _groups(self) -> list[list[Any]]:
        """What is to be saved, each with all that hangs together with it by relationships; last in it what others lead to."""
        neighbours: defaultdict[int, list[int]] = defaultdict(list)
        for one, other in self._links:
            neighbours[one].append(other)
            neighbours[other].append(one)
        group_of: dict[int, int] = {}
        for group, obj in enumerate(self._reached):
            waiting = [id(obj)]
            while waiting:
                known = waiting.pop()
                if known not in group_of:
                    group_of[known] = group
                    waiting += neighbours[known]
        led_to = {other for _, other in self._links}
        groups: defaultdict[int, list[Any]] = defaultdict(list)
        for obj in sorted(self._reached, key=lambda obj: id(obj) in led_to):
            groups[group_of[id(obj)]].append(obj)
        return [groups[group] for group in sorted(groups)]

    def _too_large(self) -> Exception:
        for obj in self._reached:
            state = _state_of(obj)
            large = [
                column.name
                for key, column in written_columns(state.mapper)
                if isinstance(value := state.dict.get(key), int) and not -_LARGEST - 1 <= value <= _LARGEST
            ]
            if large:
                return refused(Rejection.OUT_OF_RANGE, state.mapper, large)
        failure = Failure(FailureClass.PERMANENT, Stage.BODY, name="OverflowError", rejection=Rejection.OUT_OF_RANGE)
        return error_for(failure, operation=self.name)

    def load(self, session: Session, saved: Identities) -> list[Pair]:
        """The pairs of a replay: what was saved under the key, as it is now; None for a row that was deleted since.

        With what is related to them, as far as the caller's objects hold it: so had the first answer.
        """
        pairs: list[Pair] = []
        database = database_of(session)
        for obj, key in zip(self._reached, saved.keys, strict=True):
            state = _state_of(obj)
            row = session.get(type(obj), _identity(state.mapper, key))
            if row is not None:
                there = _state_of(row).dict
                missing = [relationship.key for relationship in loaded(state) if relationship.key not in there]
                if missing:
                    session.refresh(row, missing)  # loads them, however lazy they are
            pairs.append(Pair(obj, row, database))
        return pairs

    @contextmanager
    def loading(self, outer: Unit[Any] | None) -> Iterator[None]:
        """The context of `load` outside of the operation that found the key's row: whatever fails in it, that is committed.

        Args:
            outer: the unit whose body runs here, to which a failure is one of its own; None: there is none.

        Raises:
            NotLoaded: it failed.
        """
        try:
            yield
        except Exception as error:
            if outer is not None:
                raise
            raise NotLoaded(
                f"{self.name}: what was saved under this key is committed, but could not be loaded; ask again with the same key",
                retry_after_s=error.retry_after_s if isinstance(error, HoldfastError) else None,
            ) from error
        except BaseException as stop:
            report = report_of(stop)
            if outer is None and report is not None:
                attach_report(stop, report._replace(outcome=Outcome.COMMITTED))
            raise

    def replayed(self, pairs: Sequence[Pair]) -> list[Pair]:
        """Those of a replay whose rows are there.

        Raises:
            UsageError: an object of the caller's was saved under the key, and its row was deleted since; `outcome` is
                `Outcome.COMMITTED`.
        """
        named = {id(obj) for obj in self.objects}
        if any(pair.copy is None and id(pair.original) in named for pair in pairs):
            gone = UsageError(
                f"{self.name}: what was saved under this key is committed, but its row has been deleted since; use a new key "
                "to save it again"
            )
            gone.outcome = Outcome.COMMITTED
            raise gone
        return [pair for pair in pairs if pair.copy is not None]

    def results(self, pairs: Sequence[Pair]) -> list[M]:
        """The saved objects, one for each of the caller's."""
        copies = {id(pair.original): pair.copy for pair in pairs}
        return [copies[id(obj)] for obj in self.objects]


# -- what is saved with an object ----------------------------------------------------------------------------------------


def _members(state: InstanceState[Any], relationship: RelationshipProperty[Any]) -> list[Any]:
    """The related objects; of a set, which has no order, by what they hold: so one request asks for the same every time."""
    value = state.dict.get(relationship.key)
    if value is None:
        return []
    if not relationship.uselist:
        return [value]
    members = list(collection_adapter(value))
    if _is_ordered(value):
        return members
    return sorted(members, key=lambda member: repr(_description(_state_of(member), {})))


def _is_ordered(collection: Any) -> bool:
    return isinstance(collection, (list, dict))


def _columns_of(state: InstanceState[Any]) -> dict[str, Any]:
    columns = {
        attribute.key: state.dict[attribute.key]
        for attribute in state.mapper.column_attrs
        if attribute.key in state.dict
    }
    return _primary_key_of(state) | columns


def _primary_key_of(state: InstanceState[Any]) -> dict[str, Any]:
    """The primary key by attribute; where the object has let go of it (expired), by its identity. Without what is missing."""
    attributes = [state.mapper.get_property_by_column(column).key for column in state.mapper.primary_key]
    known = dict(zip(attributes, state.key[1], strict=True)) if state.key is not None else {}
    return {key: state.dict.get(key, known.get(key)) for key in attributes if key in state.dict or key in known}


def _description(state: InstanceState[Any], places: dict[int, int]) -> list[Any]:
    described: list[Any] = [qualified_name(type(state.obj())), _columns_of(state)]
    related = {
        relationship.key: [places[id(member)] for member in _members(state, relationship) if id(member) in places]
        for relationship in loaded(state)
        if places
    }
    return [*described, related] if related else described


# -- what comes back -----------------------------------------------------------------------------------------------------


def give_back(pairs: Iterable[Pair], outer: Unit[Any] | None) -> None:
    """Put what the database has made (keys, defaults, versions) into the caller's objects: they hold what their rows do.

    Args:
        pairs: what was saved.
        outer: the unit inside whose body it was, whose COMMIT is still to come; None where it is committed.
    """
    changes = [change for pair in pairs for change in _changes(pair)]
    for change in changes:
        change.give()
    if outer is not None and changes:
        given = Given(changes)
        givings_of(outer).add(given)
        outer.hooks.append((given.give_again, (), {}))


def _changes(pair: Pair) -> Iterator[Giving]:
    original, copy, database = pair
    state, there = _state_of(original), _state_of(copy)
    noted = dict(state.committed_state)
    for attribute in state.mapper.column_attrs:
        key = attribute.key
        value, before = there.dict.get(key, ABSENT), state.dict.get(key, ABSENT)
        if value is not ABSENT and (value is not before or key in noted):
            yield Change(original, key, before, noted.get(key, ABSENT), value)
    for relationship in loaded(state):
        if relationship.key in noted:
            yield Settled(original, relationship.key, noted[relationship.key])
    if state.key is None and there.key is not None:
        yield Saved.of(original, Row(database, there.key))


# -- keyed saves ---------------------------------------------------------------------------------------------------------


class Identities(NamedTuple):
    """The primary keys under which a keyed save was stored, as a replay finds them."""

    keys: list[list[Any]]


class IdentityCodec:
    """Stores saved objects by primary key: a replay loads them, so it sees the row as it is now."""

    __slots__ = ("_json",)

    def __init__(self) -> None:
        self._json = JsonCodec()

    def encode(self, result: Sequence[Pair]) -> str:
        """The primary keys of the copies in `result`.

        Raises:
            ResultNotSerializable: a primary key is of a type that has no stored form.
        """
        return json.dumps([self._encode_one(pair.copy) for pair in result])

    def _encode_one(self, copy: Any) -> list[Any]:
        state = _state_of(copy)
        columns = state.mapper.primary_key
        return [
            self._encode_part(column, part, copy) for column, part in zip(columns, state.identity or (), strict=True)
        ]

    def _encode_part(self, column: Any, part: Any, copy: Any) -> str:
        if isinstance(part, Enum) and _enum_of(column) is not None:
            part = part.name
        try:
            return self._json.encode(part)
        except (TypeError, ValueError, ResultNotSerializable) as error:
            raise ResultNotSerializable(
                f"save {type(copy).__name__}: its primary key holds a {type(part).__name__}, by which it cannot be found again "
                "under the save's key; save it without a key, or in a keyed transaction function that returns a plain value"
            ) from error

    def decode(self, text: str) -> Identities:
        """The primary keys again."""
        return Identities([[self._json.decode(part) for part in key] for key in json.loads(text)])


def _enum_of(column: Any) -> type[Enum] | None:
    return column.type.enum_class if isinstance(column.type, sqlalchemy.Enum) else None


def _identity(mapper: Mapper[Any], key: list[Any]) -> Any:
    parts = []
    for column, part in zip(mapper.primary_key, key, strict=True):
        members = _enum_of(column)
        parts.append(part if members is None else members[part])
    return tuple(parts) if len(parts) != 1 else parts[0]
