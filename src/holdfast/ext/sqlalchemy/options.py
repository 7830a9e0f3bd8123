"""The options of one operation: how it differs from its database's defaults."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from dataclasses import dataclass, replace
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any, get_type_hints

from ...deadline import seconds
from ...operation import JsonCodec, ResultCodec

if TYPE_CHECKING:
    from datetime import timedelta

__all__ = ["OperationOptions", "options_for"]


@dataclass(frozen=True, slots=True)
class OperationOptions:
    """How one operation differs from its database's defaults.

    Attributes:
        name: the operation's name in events, errors and as the default scope of its keys.
        scope: whose keys these are; None: the operation's own.
        deadline_s: seconds for the whole operation, or None for the database's default.
        isolation: `snapshot`, `serializable`, `read committed`, ... for its transactions, or None for the default.
        protect: whether an ambiguous commit without a key is found out as well; None: the database's default.
        read_only: the operation writes nothing.
        codec: how its result is stored under a key; None: JSON after the function's return annotation.
    """

    name: str
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
    """The options of an operation that runs `fn`, as far as they follow from it."""
    plain = getattr(fn, "__qualname__", type(fn).__qualname__).replace(".<locals>", "").replace(" ", "_")
    return OperationOptions(
        name=name or plain, scope=scope, read_only=read_only, codec=codec or JsonCodec(_result_type(fn))
    )


def _result_type(fn: Callable[..., Any]) -> Any:
    function = inspect.unwrap(fn)
    returns = getattr(function, "__annotations__", {}).get("return")
    # The return annotation alone: those of the parameters may name what only a type checker imports.
    alone = SimpleNamespace(__annotations__={"return": returns})
    try:
        return get_type_hints(alone, globalns=getattr(function, "__globals__", None)).get("return")
    except NameError:
        return None
