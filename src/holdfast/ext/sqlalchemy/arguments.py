"""What a transaction function is called with: named for its fingerprint, and searched for what belongs to a caller's session."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterable
from dataclasses import fields, is_dataclass
from itertools import chain, islice
from typing import Any

from sqlalchemy.ext.asyncio import AsyncSession, async_scoped_session
from sqlalchemy.orm import Session, scoped_session

from ...errors import ConfigurationError, ForeignTransaction
from ...operation import PLAIN, fingerprint

__all__ = ["Parameters", "refuse_caller_session"]

_LOOKED_AT_MAX = 100
_CONTAINER_TYPES = (list, tuple, set, frozenset)
_CONTAINERS = frozenset({dict, *_CONTAINER_TYPES})
_SESSIONS = (Session, AsyncSession, scoped_session, async_scoped_session)
_PLAIN_KINDS = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)
_ANYTHING = inspect.Signature(
    [
        inspect.Parameter("args", inspect.Parameter.VAR_POSITIONAL),
        inspect.Parameter("kwargs", inspect.Parameter.VAR_KEYWORD),
    ]
)


class Parameters:
    """The parameters of a transaction function without its first, the session. Immutable.

    Args:
        fn: the transaction function. One whose parameters Python does not tell (some builtins) counts as `(*args, **kwargs)`.
    """

    __slots__ = ("_defaults", "_names", "_required", "_whole")

    def __init__(self, fn: Callable[..., Any]) -> None:
        self._whole = _signature_of(fn)
        parameters = list(self._whole.parameters.values())
        others = parameters[1:]
        self._defaults = tuple((one.name, one.default) for one in others if one.default is not one.empty)
        # Where each argument has a place of its own, the names in their order are all there is to know.
        plain = bool(parameters) and all(one.kind in _PLAIN_KINDS for one in parameters)
        self._names = tuple(one.name for one in others) if plain else ()
        self._required = len(others) - len(self._defaults) if plain else 1

    @property
    def signature(self) -> inspect.Signature:
        """How the caller of the operation sees it."""
        parameters = list(self._whole.parameters.values())
        if parameters and parameters[0].kind is not inspect.Parameter.VAR_POSITIONAL:
            del parameters[0]
        return self._whole.replace(parameters=parameters)

    def named(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> dict[str, Any]:
        """The arguments by name, so that a keyword and a position are the same payload.

        One that equals its default is left out, so that the default and its value are the same payload too, and what was asked
        before a parameter with a default was added is still the same.

        Raises:
            TypeError: the function cannot be called with them.
        """
        if not kwargs and self._required <= len(args) <= len(self._names):
            named = dict(zip(self._names, args, strict=False))
        else:
            named = self._bound(args, kwargs)
        for name, default in self._defaults:
            if name in named and _same(named[name], default):
                del named[name]
        return named

    def _bound(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> dict[str, Any]:
        named = dict(self._whole.bind(None, *args, **kwargs).arguments)
        first = next(iter(self._whole.parameters.values()))
        given = named.pop(first.name)
        if first.kind is first.VAR_POSITIONAL and len(given) > 1:
            named[first.name] = given[1:]  # the session is the first of them
        return named


def _signature_of(fn: Callable[..., Any]) -> inspect.Signature:
    try:
        return inspect.signature(fn)
    except ValueError:
        return _ANYTHING


def _same(value: Any, default: Any) -> bool:
    if value is default:
        return True
    if type(value) in PLAIN or type(default) in PLAIN:
        return type(value) is type(default) and bool(value == default)
    try:
        return fingerprint("", (value,), {}) == fingerprint("", (default,), {})
    except ConfigurationError:  # a default that has no value (a sentinel) is the same as itself alone
        return False


def refuse_caller_session(name: str, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
    """Refuse sessions and objects of sessions, also inside lists, tuples, sets, dictionaries and dataclasses.

    At most a hundred values are looked at: an argument with ten thousand rows must not cost more than the statement they are for.

    Raises:
        ForeignTransaction: one was found.
    """
    found = [*args, *kwargs.values()]
    for value in found:  # grows on the way
        kind = type(value)
        if kind in PLAIN:
            continue
        if kind not in _CONTAINERS:
            state = getattr(value, "_sa_instance_state", None)
            if isinstance(value, _SESSIONS) or (state is not None and state.session_id is not None):
                what = "a session" if state is None else f"a {kind.__name__} that belongs to a session"
                raise ForeignTransaction(
                    f"{name} was given {what} of the caller's; a transaction function works in its own session, which is new "
                    "at every attempt: pass ids and values, and load the objects inside"
                )
            if state is not None:
                continue  # to look into an object may load what is missing
        room = _LOOKED_AT_MAX - len(found)
        if room > 0:
            found.extend(islice(_inside(kind, value), room))


def _inside(kind: type, value: Any) -> Iterable[Any]:
    if kind is dict or issubclass(kind, dict):
        return chain(value.values(), value)
    if kind in _CONTAINERS or issubclass(kind, _CONTAINER_TYPES):
        return value  # type: ignore[no-any-return]
    if is_dataclass(kind):
        return (getattr(value, part.name, None) for part in fields(kind))
    return ()
