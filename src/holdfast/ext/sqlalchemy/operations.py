"""Transaction functions: what `db.transaction` makes of a function.

    @db.transaction
    def transfer(tx: Session, source: int, target: int, amount: Decimal) -> Receipt: ...

    transfer(1, 2, amount)                      # from BEGIN to COMMIT, rerun as a whole, applied exactly once
    transfer.keyed(request_key)(1, 2, amount)   # the same key again returns the same receipt
    transfer.having(deadline=2.0)(1, 2, amount)

The function is called once an attempt, with a fresh session first. It must not commit, and whatever it does outside the
database (mail, HTTP) belongs into `db.after_commit(...)`.
"""

from __future__ import annotations

import inspect
from collections.abc import AsyncGenerator, Awaitable, Callable, Generator
from functools import cached_property, update_wrapper
from types import CoroutineType, FunctionType
from typing import TYPE_CHECKING, Any, Concatenate, Generic, ParamSpec, Self, TypeVar, cast

from sqlalchemy import exc
from sqlalchemy.engine.result import ResultInternal
from sqlalchemy.ext.asyncio.result import AsyncCommon
from sqlalchemy.orm import Query
from sqlalchemy.util import greenlet_spawn

from ...callables import code_of, is_coroutine_function, name_of
from ...dialects import classify
from ...errors import ConfigurationError, KeyReused, Report, UsageError, attach_report, error_for
from ...operation import PLAIN, OperationKey, fingerprint, replayed, scope_of
from ...outcome import FailureClass, Stage
from ...transaction import AsyncShell, Shell
from . import inside
from .arguments import Parameters, refuse_caller_session
from .async_unit import AsyncUnit
from .current import open_unit
from .joined_deadline import own_deadline, own_deadline_async
from .joined_read import only_reading, send_before_reading
from .sessions import ONLY_READS
from .unit import Hook, Unit

if TYPE_CHECKING:
    from datetime import timedelta

    from ...operation import Record
    from .options import OperationOptions
    from .runtime import Runtime
    from .sessions import UnitAsyncSession, UnitSession

__all__ = [
    "AsyncOperation",
    "Operation",
    "call_hooks",
    "call_hooks_async",
    "check_joining",
    "run_async",
]

P = ParamSpec("P")
R = TypeVar("R")


def _refuse_async(fn: Callable[..., Any]) -> None:
    """A synchronous database cannot await.

    Raises:
        ConfigurationError: `fn` is a coroutine or generator function, or not callable.
    """
    if _is_coroutine_function(fn):
        raise ConfigurationError(f"{name_of(fn)} is a coroutine function; use AsyncDatabase for it")


def _refuse_sync(fn: Callable[..., Any]) -> None:
    """An asynchronous database awaits its functions.

    Raises:
        ConfigurationError: `fn` is a plain or generator function, or not callable.
    """
    if not _is_coroutine_function(fn):
        raise ConfigurationError(
            f"{name_of(fn)} is not a coroutine function; write `async def`, or use Database for it"
        )


def _is_coroutine_function(fn: Callable[..., Any]) -> bool:
    if not callable(fn):
        raise ConfigurationError(f"a transaction function must be callable, which a {type(fn).__name__} is not")
    code = code_of(fn)
    if inspect.isgeneratorfunction(code) or inspect.isasyncgenfunction(code):
        raise ConfigurationError(f"{name_of(fn)} is a generator; a transaction function returns its result at once")
    if type(fn) is FunctionType and fn.__code__.co_argcount and fn.__code__.co_varnames[0] in ("self", "cls"):
        raise ConfigurationError(
            f"{name_of(fn)} is a method, and its first parameter would get the session; decorate a function, or hand in the "
            "bound method: self.save = db.transaction(self._save)"
        )
    return is_coroutine_function(fn)


def _refuse_unfinished(name: str, result: Any) -> None:
    """What is still to be awaited or iterated would run after COMMIT, or never.

    Raises:
        UsageError: `result` is an awaitable, a generator, or rows that are still to be fetched; not the result of a statement
            without rows.
    """
    kind = type(result)
    if _must_be_awaited(result) or (issubclass(kind, _UNFINISHED) and getattr(result, "returns_rows", True)):
        if isinstance(result, (CoroutineType, Generator)):
            result.close()  # it has not begun; nobody else will say that it never does
        raise UsageError(
            f"{name} returned a {kind.__name__}, which would run after the transaction; nothing was applied. Return the result "
            "itself: await or iterate it inside"
        )


def _must_be_awaited(value: object) -> bool:
    """Whether nothing happens unless somebody awaits it. A task or a future runs whoever does."""
    kind = type(value)
    return hasattr(kind, "__await__") and not hasattr(kind, "add_done_callback")


# Generators by what they can do: those that SQLAlchemy has compiled are of another type.
_UNFINISHED = (Generator, AsyncGenerator, map, filter, zip, ResultInternal, AsyncCommon, Query)


class _SignatureForCallers:
    """What `inspect.signature` looks for: that of an operation, and none for its class."""

    def __get__(self, operation: _TransactionFunction[Any, Any] | None, owner: object) -> inspect.Signature:
        if operation is None:
            raise AttributeError("__signature__")
        return operation._parameters.signature


class _TransactionFunction(Generic[P, R]):
    """What both kinds share: a function, its options, and perhaps a key. Immutable once it is handed out."""

    __signature__ = _SignatureForCallers()

    def __init__(self, runtime: Runtime, fn: Callable[..., Any], options: OperationOptions) -> None:
        # Without what stands in the function's own `__dict__`, which could have a name of ours.
        update_wrapper(cast("Callable[..., Any]", self), fn, updated=())
        self._runtime = runtime
        self._fn = fn
        self._options = options
        self._key: OperationKey | None = None

    @cached_property
    def _parameters(self) -> Parameters:
        return Parameters(self._fn)

    @cached_property
    def _identity(self) -> str:
        options = self._options
        identity = options.name if options.identity is None else options.identity
        if not identity:
            raise ConfigurationError(
                f"{options.name} has no name of its own, so other functions could get its results under the same key; give it "
                'one: @db.transaction(name="..."), or functools.wraps where a decorator hides the function. What belongs '
                'to an object needs one for each: db.transaction(name=f"deposit of {self.tenant}")(self._deposit)'
            )
        return identity

    @cached_property
    def _scope(self) -> str:
        return self._options.scope or scope_of(self._identity)

    def keyed(self, key: str, *, scope: str | None = None) -> Self:
        """The same function under `key`: called again with the same key it returns the same result without running.

        Args:
            key: 1 to 255 printable ASCII characters without spaces.
            scope: whose key it is; default: this operation's.

        Raises:
            ConfigurationError: the key or scope has a wrong form, or nothing tells the function from others: a lambda, a
                partial, a decorator's wrapper, or what belongs to an object (its method, or itself), without a `name`.
            KeyReused: (on calling) the key belongs to a call with other arguments.
            InProgress: (on calling) another caller ran it until the deadline.
        """
        # Asked of this one, so that they are found out once and not again for each key.
        _ = self._identity, self._parameters
        bound_key = OperationKey(self._scope if scope is None else scope, key)
        bound = self._copy()
        bound._key = bound_key
        return bound

    def having(
        self,
        *,
        deadline: float | timedelta | None = None,
        isolation: str | None = None,
        protect: bool | None = None,
    ) -> Self:
        """The same function with some options changed; see `Database.transaction`."""
        bound = self._copy()
        bound._options = self._runtime.settings.checked(
            self._options.having(deadline=deadline, isolation=isolation, protect=protect)
        )
        return bound

    def _copy(self) -> Self:
        # What copy() does, at a third of its price: every keyed call makes one.
        bound = object.__new__(type(self))
        bound.__dict__.update(self.__dict__)
        return bound

    def _fingerprint(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> str:
        if args or kwargs:
            refuse_caller_session(self._options.name, args, kwargs)
        if self._key is None:
            return ""
        return fingerprint(self._identity, (), self._parameters.named(args, kwargs))


class Operation(_TransactionFunction[P, R]):
    """A transaction function of a `Database`. Safe to share between threads.

    Calling it raises `NotCommitted` or one of its kinds when nothing was applied, `OutcomeUnknown` when the deadline forbade
    finding out, and whatever the function itself raises, after a rollback.
    """

    def __init__(
        self, runtime: Runtime, fn: Callable[Concatenate[UnitSession, P], R], options: OperationOptions
    ) -> None:
        _refuse_async(fn)
        super().__init__(runtime, fn, options)

    def __call__(self, *args: P.args, **kwargs: P.kwargs) -> R:
        """Run the operation; see the class."""
        runtime, fn, options, key = self._runtime, self._fn, self._options, self._key
        asked = self._fingerprint(args, kwargs)

        def body(session: UnitSession) -> R:
            result: R = fn(session, *args, **kwargs)
            if type(result) not in PLAIN:
                _refuse_unfinished(options.name, result)
            return result

        outer = open_unit(runtime)
        if outer is not None:
            return _join(outer, options, key, asked, body)
        runtime.refuse_foreign_transaction(options.name)
        with runtime.within(options) as until:
            plan, unit = runtime.prepare(options, body, until, key=key, fingerprint=asked)
            shell = Shell(plan, unit, clock=runtime.clock, random=runtime.random, events=runtime.events)
            ran = shell.run()
        if ran.hooks:
            call_hooks(unit, ran.hooks, shell)
        runtime.purge_when_due()
        return ran.result


class AsyncOperation(_TransactionFunction[P, R]):
    """A transaction function of an `AsyncDatabase`; as `Operation`, awaited. Safe to share between tasks."""

    def __init__(
        self, runtime: Runtime, fn: Callable[Concatenate[UnitAsyncSession, P], Awaitable[R]], options: OperationOptions
    ) -> None:
        _refuse_sync(fn)
        super().__init__(runtime, fn, options)

    async def __call__(self, *args: P.args, **kwargs: P.kwargs) -> R:
        """Run the operation; see the class."""
        runtime, fn, options, key = self._runtime, self._fn, self._options, self._key
        asked = self._fingerprint(args, kwargs)

        async def body(session: UnitAsyncSession) -> R:
            awaitable = fn(session, *args, **kwargs)
            if type(awaitable) is not CoroutineType and not inspect.isawaitable(awaitable):
                raise UsageError(
                    f"{options.name} returned a {type(awaitable).__name__}, which cannot be awaited; nothing was applied. Write "
                    "`async def`, or use Database for it"
                )
            result: R = await awaitable
            if type(result) not in PLAIN:
                _refuse_unfinished(options.name, result)
            return result

        return await run_async(runtime, options, key, asked, body)


async def run_async(
    runtime: Runtime,
    options: OperationOptions,
    key: OperationKey | None,
    asked: str,
    body: Callable[[UnitAsyncSession], Awaitable[R]],
    *,
    on_waiting: Callable[[bool], None] | None = None,
) -> R:
    """Run `body` as one operation: in the transaction that is open here, or from BEGIN to COMMIT.

    Args:
        runtime: the database's.
        options: how it differs from the database's defaults.
        key: the operation's key, or None.
        asked: the fingerprint of what is asked for; empty without a key.
        body: called with the attempt's session, once an attempt.
        on_waiting: see `AsyncUnit`.

    Raises:
        NotCommitted, OutcomeUnknown: as `AsyncOperation`.
        BaseException: what `body` raises, after a rollback.
    """
    outer = open_unit(runtime)
    if outer is not None:
        return await _join_async(outer, options, key, asked, body)
    runtime.refuse_foreign_transaction(options.name)
    with runtime.within(options) as until:
        unit: Unit[R]
        plan, unit = runtime.prepare(options, None, until, key=key, fingerprint=asked)
        port = AsyncUnit(unit, body, on_waiting)
        shell = AsyncShell(plan, port, clock=runtime.clock, random=runtime.random, events=runtime.events)
        ran = await shell.run()
    if ran.hooks:
        await call_hooks_async(unit, ran.hooks, shell)
    runtime.purge_when_due()
    return ran.result


# -- joining the transaction that is open already ----------------------------------------------------------------------


def _join(
    outer: Unit[Any], options: OperationOptions, key: OperationKey | None, asked: str, body: Callable[[UnitSession], R]
) -> R:
    check_joining(outer, options)
    assert outer.session is not None
    try:
        with own_deadline(outer, options):
            return _joined(outer, outer.session, options, key, asked, body)
    except exc.DBAPIError as error:
        _raise_typed(outer, options, error)
        raise


def _joined(
    outer: Unit[Any],
    session: UnitSession,
    options: OperationOptions,
    key: OperationKey | None,
    asked: str,
    body: Callable[[UnitSession], R],
) -> R:
    if key is None:
        send_before_reading(outer, options)
        with only_reading(outer, options):
            return body(session)
    # Its row must go with its work: the outer function may live on after this one failed, or undo it with a savepoint of its own.
    with inside.under(outer, key, options.name), session.begin_nested():
        session.connection()  # SQLAlchemy sends SAVEPOINT late, and does not see the row
        found = inside.claim(outer, key, asked)
        if found is not None:
            return _replayed(outer, options, asked, found)  # type: ignore[no-any-return]
        result = body(session)
        session.flush()
        inside.store(outer, key, options.codec, result)
    return result


async def _join_async(
    outer: Unit[Any],
    options: OperationOptions,
    key: OperationKey | None,
    asked: str,
    body: Callable[[UnitAsyncSession], Awaitable[R]],
) -> R:
    check_joining(outer, options)
    assert outer.async_session is not None
    try:
        async with own_deadline_async(outer, options):
            return await _joined_async(outer, outer.async_session, options, key, asked, body)
    except exc.DBAPIError as error:
        _raise_typed(outer, options, error)
        raise


async def _joined_async(
    outer: Unit[Any],
    session: UnitAsyncSession,
    options: OperationOptions,
    key: OperationKey | None,
    asked: str,
    body: Callable[[UnitAsyncSession], Awaitable[R]],
) -> R:
    if key is None:
        await greenlet_spawn(send_before_reading, outer, options)
        with only_reading(outer, options):
            return await body(session)
    with inside.under(outer, key, options.name):
        async with session.begin_nested():
            await session.connection()
            found = await greenlet_spawn(inside.claim, outer, key, asked)
            if found is not None:
                return _replayed(outer, options, asked, found)  # type: ignore[no-any-return]
            result = await body(session)
            await session.flush()
            await greenlet_spawn(inside.store, outer, key, options.codec, result)
    return result


def _raise_typed(outer: Unit[Any], options: OperationOptions, error: exc.DBAPIError) -> None:
    """What the server refuses for good is the same error inside another operation as by itself.

    The rest stays what it is: the outer operation runs again, and nobody in between should take it for an answer.
    """
    failure = classify(error, stage=Stage.BODY, flavour=outer.runtime.flavour_or_none)
    if failure.failure_class is FailureClass.PERMANENT and failure.rejection is not None:
        raise error_for(failure, operation=options.name) from error


def _replayed(outer: Unit[Any], options: OperationOptions, asked: str, found: Record) -> Any:
    if found.fingerprint != asked:
        raise KeyReused(f"{outer.name}: the key of {options.name} inside it belongs to a call with other arguments")
    assert options.codec is not None
    return replayed(found, options.codec, options.name)


def check_joining(outer: Unit[Any], options: OperationOptions) -> None:
    """An operation inside another one gets the transaction that is there, and must be able to live with it.

    Raises:
        UsageError: it asks for another isolation level, or may write inside a read.
    """
    if outer.read_only and not options.read_only:
        raise UsageError(
            f"{options.name} may write, inside {outer.name}, which is a read: that is repeated after any failure, so a write "
            "could be applied twice. Make the outer one a transaction, or the inner one a read"
        )
    if outer.session is not None and outer.session.only_reads and not options.read_only:
        raise UsageError(f"{options.name} may write, inside a read that is part of {outer.name}: {ONLY_READS}")
    if options.isolation is not None and options.isolation != outer.isolation:
        raise UsageError(
            f"{options.name} asks for isolation {options.isolation!r} inside {outer.name}, which runs at "
            f"{outer.isolation or 'the default'}; give the outer operation the stronger level"
        )


# -- after COMMIT --------------------------------------------------------------------------------------------------------


def call_hooks(unit: Unit[Any], hooks: list[Hook], shell: Shell[Any]) -> None:
    """Call each hook once; one that raises is reported and changes nothing.

    Raises:
        BaseException: what stops the program; its report says that the operation is committed.
    """
    for position, (hook, args, kwargs) in enumerate(hooks):
        try:
            returned = hook(*args, **kwargs)
            if _must_be_awaited(returned):
                raise _nobody_awaits(hook, returned)
        except Exception as error:  # the save stands whatever a hook does
            unit.hook_failed(hook, error)
        except BaseException as stop:
            _hooks_were_cut(unit, hooks[position:], stop, shell.report())
            raise


async def call_hooks_async(unit: Unit[Any], hooks: list[Hook], shell: AsyncShell[Any]) -> None:
    """As `call_hooks`; what a hook returns is awaited if it can be, and a cancellation stops as the program's end does."""
    for position, (hook, args, kwargs) in enumerate(hooks):
        try:
            returned = hook(*args, **kwargs)
            if inspect.isawaitable(returned):
                await returned
        except Exception as error:  # the save stands whatever a hook does
            unit.hook_failed(hook, error)
        except BaseException as stop:
            _hooks_were_cut(unit, hooks[position:], stop, shell.report())
            raise


def _nobody_awaits(hook: Callable[..., Any], returned: Any) -> UsageError:
    if isinstance(returned, CoroutineType):
        returned.close()
    return UsageError(
        f"{name_of(hook)} returned a {type(returned).__name__}, which Database cannot await after the commit; make it a plain "
        "function that does its work itself, or use AsyncDatabase"
    )


def _hooks_were_cut(unit: Unit[Any], hooks: list[Hook], stop: BaseException, report: Report) -> None:
    """Who stops a caller means the hooks as well: the one that was cut and those after it are told as failed."""
    attach_report(stop, report)
    for hook, _, _ in hooks:
        unit.hook_failed(hook, stop)
