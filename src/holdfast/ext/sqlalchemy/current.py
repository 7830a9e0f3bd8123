"""Which unit's body runs in the calling context: what is called there joins it, and nobody else may.

Context variables alone cannot tell, as a task that the body starts inherits them: so the holder is compared as well.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable
from contextvars import ContextVar
from types import TracebackType
from typing import TYPE_CHECKING, Any

from ...callables import code_of, is_coroutine_function, name_of
from ...errors import UsageError
from ...layer import retry_layer
from .holder import who_runs_here

if TYPE_CHECKING:
    from .runtime import Runtime
    from .unit import Unit

__all__ = [
    "AT_WORK",
    "body_of",
    "call_after_commit",
    "open_unit",
    "opening_or_ending_unit",
    "running_unit",
    "unit_at_work_on",
]

_current: ContextVar[Unit[Any] | None] = ContextVar("holdfast_unit", default=None)

AT_WORK: ContextVar[Unit[Any] | None] = ContextVar("holdfast_unit_at_work", default=None)
"""Set by a unit while it takes its connection or ends its transaction."""

opening_or_ending_unit = AT_WORK.get
"""The unit that is taking its connection or ending its transaction in the calling context, or None."""


def open_unit(runtime: Runtime) -> Unit[Any] | None:
    """The unit of `runtime` whose body is running here: what starts here joins it.

    Raises:
        UsageError: its body is running, but in the task or thread that started this one.
    """
    unit = _current.get()
    while unit is not None and unit.runtime is not runtime:
        unit = unit.outer
    if unit is None or unit.holder is None:
        return None
    if unit.holder is not who_runs_here():
        raise UsageError(
            f"{unit.name} is still running, in another task or thread: its session serves that one alone, and a transaction "
            "of your own would be applied again whenever it is rerun. Do this in the transaction function itself, or "
            "after it with after_commit()"
        )
    return unit


def running_unit(runtime: Runtime, what: str) -> Unit[Any]:
    """As `open_unit`, where there has to be one.

    Raises:
        UsageError: there is none; `what` asked for it.
    """
    unit = open_unit(runtime)
    if unit is None:
        raise UsageError(f"{what} works inside a transaction function or block of this database")
    return unit


def call_after_commit(
    runtime: Runtime, hook: Callable[..., object], args: tuple[Any, ...], kwargs: dict[str, Any]
) -> None:
    """Have the running unit call `hook` once its transaction is known to be committed.

    Raises:
        UsageError: no transaction of this database is running here, or there is nothing to call, or a call would run nothing: of
            a generator function, or of a coroutine function where nobody can await it.
    """
    unit = running_unit(runtime, "after_commit()")
    _refuse_what_would_not_run(hook, asynchronous=runtime.endpoint.async_engine is not None)
    unit.hooks.append((hook, args, kwargs))


def _refuse_what_would_not_run(hook: object, *, asynchronous: bool) -> None:
    if not callable(hook):
        raise UsageError(
            f"after_commit() takes a function and its arguments, not a {type(hook).__name__}: after_commit(notify, user_id) "
            "calls it later, after_commit(notify(user_id)) has called it already"
        )
    code = code_of(hook)
    if inspect.isgeneratorfunction(code) or inspect.isasyncgenfunction(code):
        raise UsageError(
            f"{name_of(hook)} is a generator, of which a call runs nothing; after_commit() takes a function"
        )
    if not asynchronous and is_coroutine_function(hook):
        raise UsageError(
            f"{name_of(hook)} is a coroutine function, which Database cannot await after the commit; make it a plain function, "
            "or use AsyncDatabase"
        )


def unit_at_work_on(driver_connection: object) -> Unit[Any] | None:
    """The unit whose body runs here, on that connection."""
    unit = _current.get()
    while unit is not None and not unit.works_on(driver_connection):
        unit = unit.outer
    return unit


class body_of(retry_layer):
    """The context in which the body of `unit` runs: it is the current unit, and the only layer that retries."""

    __slots__ = ("_unit",)

    def __init__(self, unit: Unit[Any]) -> None:
        self._unit = unit

    def __enter__(self) -> None:
        unit = self._unit
        unit.outer = _current.get()
        unit.holder = who_runs_here()
        _current.set(unit)
        super().__enter__()

    def __exit__(
        self, exc_type: type[BaseException] | None, exc: BaseException | None, tb: TracebackType | None
    ) -> None:
        super().__exit__(exc_type, exc, tb)
        unit = self._unit
        unit.holder = None
        if _current.get() is unit:  # not a token: a block may end in another context than it began in
            _current.set(unit.outer)
