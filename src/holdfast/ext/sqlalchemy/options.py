"""The options of one operation: how it differs from its database's defaults."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from types import FunctionType, MethodType, SimpleNamespace
from typing import TYPE_CHECKING, Any, get_type_hints

from ...callables import name_of
from ...deadline import seconds
from ...errors import ConfigurationError
from ...operation import JsonCodec, OperationKey, ResultCodec, qualified_name

if TYPE_CHECKING:
    from datetime import timedelta

__all__ = ["OperationOptions", "options_for"]


@dataclass(frozen=True, slots=True)
class OperationOptions:
    """How one operation differs from its database's defaults.

    Attributes:
        name: the operation's name in events and errors.
        identity: what it is to its keys, as their default scope and in fingerprints: the name it was given, or else module and
            qualified name of its function; None: the name; empty: it has nothing that tells it from others.
        scope: whose keys these are; None: the operation's own.
        deadline_s: seconds for the whole operation, or None for the database's default.
        isolation: `snapshot`, `serializable`, `read committed`, ... for its transactions, or None for the default.
        protect: whether an ambiguous commit without a key is found out as well; None: the database's default.
        read_only: the operation writes nothing.
        codec: how its result is stored under a key; None: JSON after the function's return annotation.
    """

    name: str
    identity: str | None = None
    scope: str | None = None
    deadline_s: float | None = None
    isolation: str | None = None
    protect: bool | None = None
    read_only: bool = False
    codec: ResultCodec | None = None

    def having(
        self,
        *,
        deadline: float | timedelta | None = None,
        isolation: str | None = None,
        protect: bool | None = None,
    ) -> OperationOptions:
        """A copy with some options changed."""
        return replace(
            self,
            deadline_s=self.deadline_s if deadline is None else seconds(deadline, name="deadline"),
            isolation=self.isolation if isolation is None else isolation,
            protect=self.protect if protect is None else protect,
        )


def options_for(
    fn: Callable[..., Any],
    *,
    name: str | None = None,
    scope: str | None = None,
    codec: ResultCodec | None = None,
    read_only: bool = False,
) -> OperationOptions:
    """The options of an operation that runs `fn`, as far as they follow from it.

    Raises:
        ConfigurationError: the name is empty, or the scope cannot be one.
    """
    if name == "":
        raise ConfigurationError("an operation's name must not be empty; leave it out for the function's own")
    if scope is not None:
        OperationKey(scope, "any")
    return OperationOptions(
        name=name or _readable(name_of(fn)),
        identity=name or _identity_of(fn),
        scope=scope,
        read_only=read_only,
        codec=codec or JsonCodec(_result_type(fn)),
    )


def _readable(qualname: str) -> str:
    return qualname.replace(".<locals>", "").replace(" ", "_")


def _identity_of(fn: Callable[..., Any]) -> str:
    """Module and qualified name of `fn`, or of the class of a callable object; empty if it shares them with others.

    A lambda, a partial, what a decorator puts around a function without saying what is inside, and what works on an object: its
    method, or the object itself. Also where decorators that do say it are around them.
    """
    if _is_nameless(inspect.unwrap(fn, stop=_is_nameless)):
        return ""
    return _readable(qualified_name(fn if hasattr(fn, "__qualname__") else type(fn)))


def _is_nameless(fn: Callable[..., Any]) -> bool:
    if isinstance(fn, MethodType):
        owner = fn.__self__
        if not isinstance(owner, type) or not hasattr(fn, "__qualname__") or _is_nameless(fn.__func__):
            return True
        # A class is in the names of its methods, but not of those that it inherits.
        return qualified_name(fn).rpartition(".")[0] != qualified_name(owner)
    if isinstance(fn, partial):
        return True
    if not isinstance(fn, FunctionType):
        return not hasattr(fn, "__qualname__") and object.__getstate__(fn) is not None
    return fn.__name__ == "<lambda>" or (
        fn.__closure__ is not None  # in which it keeps what it calls
        and fn.__code__.co_flags & _TAKES_ANYTHING == _TAKES_ANYTHING
        and not hasattr(fn, "__wrapped__")
    )


_TAKES_ANYTHING = inspect.CO_VARARGS | inspect.CO_VARKEYWORDS


def _result_type(fn: Callable[..., Any]) -> Any:
    function = inspect.unwrap(fn)
    returns = getattr(function, "__annotations__", {}).get("return")
    # The return annotation alone: those of the parameters may name what only a type checker imports.
    alone = SimpleNamespace(__annotations__={"return": returns})
    try:
        return get_type_hints(alone, globalns=getattr(function, "__globals__", None)).get("return")
    except NameError:
        return None
