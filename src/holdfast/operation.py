"""What identifies an operation, and how its result is kept: keys, fingerprints, records.

A keyed operation writes one row, `(scope, key)`, as the first statement of its own transaction. The row is there exactly when
the operation was committed, because both become visible in the same instant. The unique index does the rest: a second caller
with the same key waits for the first one's transaction to end, and then either finds the row or may go ahead.

Pure values and functions; safe everywhere. Keys and results never stand in a `repr`.
"""

from __future__ import annotations

import hashlib
import json
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, fields, is_dataclass
from datetime import date, datetime, time, timedelta
from decimal import Decimal
from enum import Enum, Flag
from types import BuiltinFunctionType, FunctionType, MethodType, ModuleType, UnionType
from typing import Any, Protocol, Union, get_args, get_origin, get_type_hints
from uuid import UUID

from .errors import ConfigurationError, ResultNotSerializable, UsageError
from .outcome import Outcome

__all__ = [
    "KEY_LENGTH_MAX",
    "PLAIN",
    "SCOPE_LENGTH_MAX",
    "JsonCodec",
    "OperationKey",
    "Record",
    "ResultCodec",
    "fingerprint",
    "qualified_name",
    "replayed",
    "scope_of",
]

KEY_LENGTH_MAX = 255
"""Characters in a key (Stripe's and most gateways' limit)."""
SCOPE_LENGTH_MAX = 100
"""Characters in a scope."""
PLAIN = frozenset({str, int, float, bool, type(None)})
"""Types of what most arguments and results are: nothing is inside their values, and JSON tells them apart by itself."""


@dataclass(frozen=True, slots=True)
class OperationKey:
    """The identity of an operation: the same key in the same scope is the same operation.

    Attributes:
        scope: whose keys these are (an operation's name, a tenant); 1 to 100 printable ASCII characters.
        key: 1 to 255 printable ASCII characters, none of them a space. Hidden in `repr`.

    Raises:
        ConfigurationError: scope or key is empty, too long, or has another character.
    """

    scope: str
    key: str = field(repr=False)

    def __post_init__(self) -> None:
        _check_text("scope", self.scope, SCOPE_LENGTH_MAX)
        _check_text("key", self.key, KEY_LENGTH_MAX)


def _check_text(name: str, text: str, length_max: int) -> None:
    # Databases compare trailing spaces, case and accents each in their own way; in this alphabet they all agree.
    if not isinstance(text, str) or not text:
        raise ConfigurationError(f"an operation's {name} must be a non-empty string")
    if len(text) > length_max:
        raise ConfigurationError(f"an operation's {name} may have {length_max} characters, this one has {len(text)}")
    if not (text.isascii() and text.isprintable() and " " not in text):
        raise ConfigurationError(f"an operation's {name} may hold printable ASCII characters without spaces only")


TOMBSTONE = -1
"""The attempt in a row that stands for an operation that was not committed, so that no ghost of it can be any more."""


@dataclass(frozen=True, slots=True)
class Record:
    """A committed operation's row, as another attempt or caller finds it.

    Attributes:
        fingerprint: of the operation that wrote it (64 hexadecimal digits).
        attempt: which of the reader's own attempts wrote it (1 or more); 0: another call with the same key did; `TOMBSTONE`: it
            says that the operation was not committed.
        result: the encoded result, or None for a result of None.
    """

    fingerprint: str
    attempt: int
    result: str | None = field(repr=False)


def qualified_name(thing: Any) -> str:
    """`module.qualname` of a function or class, the same in every process that runs the same code.

    What the program itself defines is `__main__` in one process and has its module's name in another (`python -m shop` beside a
    worker that imports `shop`); so the name is used under which the program was started, where it has one.
    """
    module = getattr(thing, "__module__", None)
    if module in ("__main__", "__mp_main__"):
        spec = getattr(sys.modules.get("__main__"), "__spec__", None)
        module = "__main__" if spec is None else spec.name
    return f"{module}.{thing.__qualname__}"


def scope_of(name: str) -> str:
    """The scope that stands for the operation `name`: the name itself, where it can be one.

    A name that is too long, or has other characters than a scope may have, is shortened from the left and spelled with `_`, and
    ends with a digest of the whole: so no two names have one scope.
    """
    if len(name) <= SCOPE_LENGTH_MAX and name.isascii() and name.isprintable() and " " not in name:
        return name
    digest = hashlib.sha256(name.encode(errors="surrogatepass")).hexdigest()[:16]
    spelled = "".join(letter if "!" <= letter <= "~" else "_" for letter in name)
    return f"{spelled[len(digest) + 1 - SCOPE_LENGTH_MAX :]}~{digest}"


class _NoForm(TypeError):
    """Why a value cannot be described or stored, in words that may stand in an error: they name types, never a value."""


def _reason(error: Exception) -> str:
    # What somebody else's code says may quote the value: Pydantic does, and so does a codec of Python's.
    return str(error) if type(error) is _NoForm else type(error).__name__


def fingerprint(operation: str, args: Sequence[Any], kwargs: Mapping[str, Any]) -> str:
    """What an operation was asked to do, as 64 hexadecimal digits (SHA-256).

    Two calls have the same fingerprint when they name the same operation with equal arguments of the same types. Classes and
    enumerations count with their module: a `Deposit(5)` is no `Withdraw(5)`, and neither is `{"amount": 5}`. A list and a tuple
    of the same items count as equal, and so do dictionaries in another order. Only a digest is kept: arguments cannot be read
    back from it.

    Args:
        operation: the operation's name.
        args, kwargs: its arguments; whatever `JsonCodec` encodes. A dataclass counts with its fields, a Pydantic model with its
            fields and private attributes, any other object with all of its attributes, private ones too.

    Raises:
        ConfigurationError: an argument cannot be told apart from others like it (no value of its own to look at).
    """
    try:
        plain = PLAIN.issuperset(map(type, kwargs.values()))
        named = dict(kwargs) if plain else {name: _described(value) for name, value in kwargs.items()}
        asked = [operation, _described_all(args), named]
        text = _ARGUMENTS.encode(asked)
    except (TypeError, ValueError, AttributeError, RecursionError) as error:
        raise ConfigurationError(
            f"{operation}: the arguments of a keyed operation must be plain values (numbers, text, dates, dataclasses, "
            f"lists, dictionaries): {_reason(error)}"
        ) from None
    return hashlib.sha256(text.encode()).hexdigest()


_TEXT = frozenset({str})


def _described(value: Any) -> Any:
    """`value` as JSON that no value of another type or content has.

    Whatever is not JSON by itself becomes an object with one name, which starts with `$`; a dictionary with such a name becomes
    a list of pairs. Names of classes have a dot in them, Holdfast's own have none.
    """
    kind = type(value)
    if kind in PLAIN:
        return value
    if kind is list or kind is tuple:
        return _described_all(value)
    if kind is dict:
        return _described_dict(value)
    form = _FORMS.get(kind)
    if form is not None:
        tag, describe = form
        return {tag: describe(value)}
    return {f"${qualified_name(kind)}": _content(kind, value)}


def _described_all(values: Sequence[Any]) -> Sequence[Any]:
    # Asked in C, whether there is anything to do: a request's body is mostly plain.
    return values if PLAIN.issuperset(map(type, values)) else [_described(item) for item in values]


def _described_dict(value: dict[Any, Any]) -> dict[str, Any]:
    if _TEXT.issuperset(map(type, value)) and "$" not in [key[:1] for key in value]:
        if PLAIN.issuperset(map(type, value.values())):
            return value
        return {key: _described(item) for key, item in value.items()}
    pairs = [[_described(key), _described(item)] for key, item in value.items()]
    return {"$dict": sorted(pairs, key=_ARGUMENTS.encode)}


def _described_set(value: Iterable[Any]) -> list[Any]:
    return sorted(map(_described, value), key=_ARGUMENTS.encode)


def _content(kind: type, value: Any) -> Any:
    """What tells `value` apart from others of its class."""
    if isinstance(value, _NOT_VALUES):
        raise _NoForm(f"a {kind.__name__} is not a value")
    if isinstance(value, Enum):
        return value.value if isinstance(value, Flag) else value.name
    if is_dataclass(kind):
        return {part.name: _described(getattr(value, part.name)) for part in fields(kind)}
    if hasattr(kind, "__fspath__"):
        from pathlib import PurePath  # late: most programs hand in none

        if isinstance(value, PurePath):  # remembers in attributes what it was asked for
            return str(value)
    attributes = _attributes(kind, value)
    for base in kind.__mro__:
        form = _FORMS.get(base)
        if form is not None:
            content = form[1](value)
            return {"$content": content, "$attributes": _described_dict(attributes)} if attributes else content
    if attributes:
        return _described_dict(attributes)
    dump = getattr(value, "model_dump", None)
    if callable(dump):
        return _described(dump())
    raise _NoForm(f"a {kind.__name__} has no value to look at")


_NOT_VALUES = (type, FunctionType, MethodType, BuiltinFunctionType, ModuleType)


def _attributes(kind: type, value: Any) -> dict[str, Any]:
    named = getattr(kind, "model_fields", None)
    if isinstance(named, dict):  # a Pydantic model: what is cached beside its fields is not part of it
        others = (getattr(value, f"__pydantic_{kept}__", None) or {} for kept in ("extra", "private"))
        return {name: getattr(value, name) for name in named} | {
            name: item for kept in others for name, item in kept.items()
        }
    state: Any = object.__getstate__(value)  # attributes, and slots where there are any
    parts = state if isinstance(state, tuple) else (state,)
    return {name: item for part in parts if part for name, item in part.items() if not name.startswith("_sa_")}


class ResultCodec(Protocol):
    """Turns an operation's result into text for its key row, and back."""

    def encode(self, result: Any) -> str:
        """The text that stands for `result`; raise `TypeError` or `ValueError` when there is none."""

    def decode(self, text: str) -> Any:
        """The result that `text` stands for."""


class JsonCodec:
    """JSON, with the types that services return besides JSON's own: `Decimal`, dates and times (with their `ZoneInfo`),
    `timedelta`, `UUID`, bytes, tuples, named tuples, sets, dictionaries with any of these as keys, enumerations, dataclasses and
    Pydantic models.

    Dataclasses, models, named tuples and enumerations come back as what `result_type` (the operation's return annotation) says,
    also inside lists, tuples, dictionaries and unions; nothing is ever imported by a name read from the database.

    Args:
        result_type: the type of the result, or None for plain values.
    """

    __slots__ = ("_result_type",)

    def __init__(self, result_type: Any = None) -> None:
        self._result_type = result_type

    def encode(self, result: Any) -> str:
        """`result` as JSON text.

        Raises:
            ResultNotSerializable: it holds something that JSON and this codec have no form for, or that `decode` could not
                rebuild.
        """
        try:
            text = _RESULTS.encode(_prepare(result))
            text.encode()  # half a surrogate pair is text to Python and to no database
            if type(result) is self._result_type and self._result_type in _KEPT_BY_JSON:
                return text
            rebuilt = self.decode(text)
        except (TypeError, ValueError, NameError, AttributeError, RecursionError) as error:
            raise ResultNotSerializable(
                f"a result of type {type(result).__name__} cannot be stored under its key ({_reason(error)}); return plain "
                "values, a dataclass or a model, and annotate the function's return type"
            ) from None
        if rebuilt != result or not _same_types(rebuilt, result):
            # A replay must return what the first call returned, down to the last dataclass in a list.
            came_back = "something else" if type(rebuilt) is type(result) else type(rebuilt).__name__
            raise ResultNotSerializable(
                f"a result of type {type(result).__name__} would come back as {came_back}; annotate the function's return type "
                "with what it returns (`list[Receipt]`, say). Where that is so, its stored form leaves something out (Pydantic "
                "masks a secret): return what is to be kept as plain values, or give the operation a `codec` of its own"
            )
        return text

    def decode(self, text: str) -> Any:
        """The result that `text` stands for."""
        return _rebuild(_STORED.decode(text), self._result_type)


def replayed(record: Record, codec: ResultCodec, operation: str) -> Any:
    """The result in a key row, for another call with the same key.

    Raises:
        UsageError: it no longer fits the return type of `operation`, whose effect stands. Nobody is told what was stored.
    """
    if record.result is None:
        return None
    try:
        return codec.decode(record.result)
    except Exception as error:  # a codec may be the user's
        reason = _reason(error)
    misfit = UsageError(
        f"{operation}: this key's operation was committed, but its stored result no longer fits the function's return type "
        f"({reason}); have the type take what was stored, until the keys have expired"
    )
    misfit.outcome = Outcome.COMMITTED
    raise misfit


_KEPT_BY_JSON = frozenset({str, int, bool})
"""Types whose every value comes back as it was, so that nobody has to try."""


def _moment(value: datetime) -> str | list[Any]:
    """ISO 8601, which has no names for zones and one form for both of an hour that comes twice: those stand beside it."""
    zone = _zone_of(value)
    if zone is None and not value.fold:
        return value.isoformat()
    written = value.replace(fold=0) if zone is None else value.replace(fold=0, tzinfo=None)
    return [written.isoformat(), value.fold, zone]


def _zone_of(value: datetime) -> str | None:
    """The name by which the zone of `value` is found again; None: there is none, and its offset has to do."""
    name = getattr(value.tzinfo, "key", None)
    if name is None:
        return None
    from zoneinfo import ZoneInfo  # late: most results have none

    try:
        found = ZoneInfo(name)
    except (KeyError, ValueError, TypeError, OSError):  # "America" is a folder
        return None
    return name if value.replace(tzinfo=found).utcoffset() == value.utcoffset() else None


def _of_moment(content: str | list[Any]) -> datetime:
    if isinstance(content, str):
        return datetime.fromisoformat(content)
    text, fold, zone = content
    moment = datetime.fromisoformat(text).replace(fold=fold)
    if zone is None:
        return moment
    from zoneinfo import ZoneInfo  # late: most results have none

    return moment.replace(tzinfo=ZoneInfo(zone))


def _time_of_day(value: time) -> str:
    if value.tzinfo is not None and value.utcoffset() is None:
        raise _NoForm("a time of day in a zone whose offset depends on the date has no stored form")
    return value.isoformat()


_ENCODERS: tuple[tuple[type, str, Callable[[Any], Any]], ...] = (
    (Decimal, "$decimal", str),
    (datetime, "$datetime", _moment),
    (date, "$date", date.isoformat),
    (time, "$time", _time_of_day),
    (timedelta, "$timedelta", lambda value: [value.days, value.seconds, value.microseconds]),
    (UUID, "$uuid", str),
    (bytes, "$bytes", bytes.hex),
    (frozenset, "$frozenset", lambda value: sorted(value, key=repr)),
    (set, "$set", lambda value: sorted(value, key=repr)),
)

# In fingerprints. A subclass has the form of its base, under its own name.
_FORMS: dict[type, tuple[str, Callable[[Any], Any]]] = {
    **{kind: (tag, encode) for kind, tag, encode in _ENCODERS},
    datetime: ("$datetime", datetime.isoformat),
    time: ("$time", time.isoformat),
    set: ("$set", _described_set),
    frozenset: ("$frozenset", _described_set),
    dict: ("$dict", _described_dict),
    list: ("$list", lambda value: _described_all(list(value))),
    tuple: ("$tuple", lambda value: _described_all(list(value))),
    str: ("$str", str.__str__),
    int: ("$int", int.__int__),
    float: ("$float", float.__float__),
}

_DECODERS: dict[str, Callable[[Any], Any]] = {
    "$decimal": Decimal,
    "$datetime": _of_moment,
    "$date": date.fromisoformat,
    "$time": time.fromisoformat,
    "$timedelta": lambda parts: timedelta(*parts),
    "$uuid": UUID,
    "$bytes": bytes.fromhex,
    "$frozenset": frozenset,
    "$set": set,
    "$tuple": tuple,
    "$dict": dict,
}


def _prepare(value: Any) -> Any:
    # json turns tuples into lists before it asks `default`; mark them first so that they come back as tuples.
    if isinstance(value, tuple):
        return {"$tuple": [_prepare(item) for item in value]}
    if isinstance(value, list):
        return [_prepare(item) for item in value]
    if isinstance(value, dict):
        if not _TEXT.issuperset(map(type, value)) or not _DECODERS.keys().isdisjoint(value):
            return {"$dict": [[_prepare(key), _prepare(item)] for key, item in value.items()]}
        return {key: _prepare(item) for key, item in value.items()}
    if isinstance(value, Enum):
        return value.value
    return value


def _encode_special(value: Any) -> Any:
    for kind, tag, encode in _ENCODERS:
        if isinstance(value, kind):
            return {tag: encode(value)}
    if isinstance(value, Enum):
        return value.value
    if is_dataclass(value) and not isinstance(value, type):
        return {part.name: _prepare(getattr(value, part.name)) for part in fields(value)}
    dump = getattr(value, "model_dump", None)
    if callable(dump):
        return dump(mode="json", by_alias=False)  # a field may have one alias here and another where it is read
    raise _NoForm(f"a value of type {type(value).__name__} has no stored form")


def _decode_special(found: dict[str, Any]) -> Any:
    if len(found) == 1:
        tag, content = next(iter(found.items()))
        decode = _DECODERS.get(tag)
        if decode is not None:
            return decode(content)
    return found


def _same_types(one: Any, other: Any) -> bool:
    """Whether two equal values are of the same types all through: a `Point(1, 2)` equals `(1, 2)`, and a text its enumeration."""
    kind = type(one)
    if type(other) is not kind:
        return False
    if kind in PLAIN:
        return True
    if isinstance(one, (list, tuple)):
        return len(one) == len(other) and all(map(_same_types, one, other))
    if isinstance(one, dict):
        return _same_types(set(one), set(other)) and all(_same_types(item, other[key]) for key, item in one.items())
    if isinstance(one, (set, frozenset)):
        twins = {item: item for item in other}
        return all(_same_types(item, twins[item]) for item in one)
    names = [part.name for part in fields(one)] if is_dataclass(kind) else getattr(kind, "model_fields", ())
    return all(_same_types(getattr(one, name), getattr(other, name)) for name in names)


def _rebuild(value: Any, kind: Any) -> Any:
    """`value` as the annotation `kind` wants it; unchanged where that says nothing."""
    inside = get_args(kind)
    if inside:
        return _rebuild_parts(value, get_origin(kind), inside)
    if not isinstance(kind, type):
        return value
    named: tuple[str, ...] | None = getattr(kind, "_fields", None)
    if isinstance(value, tuple) and isinstance(named, tuple):
        hints = get_type_hints(kind)
        return kind(*(_rebuild(item, hints.get(name)) for name, item in zip(named, value, strict=True)))
    if isinstance(value, dict):
        if is_dataclass(kind):
            return _rebuild_dataclass(value, kind)
        if hasattr(kind, "model_validate"):
            return _rebuild_model(value, kind)
    if issubclass(kind, Enum) and not isinstance(value, kind):
        return kind(value)
    return value


def _rebuild_dataclass(value: dict[str, Any], kind: Any) -> Any:
    hints = get_type_hints(kind)
    parts = {name: _rebuild(item, hints.get(name)) for name, item in value.items()}
    set_later = {part.name: parts.pop(part.name) for part in fields(kind) if not part.init and part.name in parts}
    made = kind(**parts)
    for name, item in set_later.items():
        object.__setattr__(made, name, item)  # also where it is frozen
    return made


def _rebuild_model(value: dict[str, Any], kind: Any) -> Any:
    try:
        return kind.model_validate(value, by_alias=True, by_name=True)
    except TypeError:  # Pydantic before 2.11, which goes by what the model says
        return kind.model_validate(value)


def _rebuild_parts(value: Any, container: Any, inside: tuple[Any, ...]) -> Any:
    if container in (Union, UnionType):
        return _rebuild_one_of(value, inside)
    if container is list and isinstance(value, list):
        return [_rebuild(item, inside[0]) for item in value]
    if container is dict and isinstance(value, dict):
        return {_rebuild(key, inside[0]): _rebuild(item, inside[1]) for key, item in value.items()}
    if container is tuple and isinstance(value, tuple):
        kinds = (inside[0],) * len(value) if inside[-1] is Ellipsis else inside
        return tuple(_rebuild(item, kind) for item, kind in zip(value, kinds, strict=True))
    return value


def _rebuild_one_of(value: Any, kinds: tuple[Any, ...]) -> Any:
    for kind in kinds:
        try:
            rebuilt = _rebuild(value, kind)
        except (TypeError, ValueError):
            continue
        if type(rebuilt) is (get_origin(kind) or kind):
            return rebuilt
    return value


# Made once: `json.dumps` and `json.loads` with arguments make a new one at every call.
_ARGUMENTS = json.JSONEncoder(separators=(",", ":"), sort_keys=True)
_RESULTS = json.JSONEncoder(default=_encode_special, separators=(",", ":"), ensure_ascii=False)
_STORED = json.JSONDecoder(object_hook=_decode_special)
