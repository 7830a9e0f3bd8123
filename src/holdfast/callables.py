"""What every policy can be put around: a function or a coroutine function, as decorator or as a call.

A policy says how it surrounds either kind; the rest stands here once. Whether a callable is asynchronous is decided when it
is decorated, never when it is called. A generator runs outside the call that made it, where no policy sees it fail:
refused, as is an asynchronous callable handed to a synchronous call. So is a function that turns out to return a coroutine (a
lambda around a call of one), when it does.
"""

from __future__ import annotations

import functools
from abc import ABC, abstractmethod
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, Any, ParamSpec, TypeVar, cast

from .errors import ConfigurationError, UsageError

if TYPE_CHECKING:
    from concurrent.futures import Future

__all__ = [
    "AroundCallables",
    "code_of",
    "in_daemon_thread",
    "is_coroutine_function",
    "name_of",
    "returned_coroutine",
]

P = ParamSpec("P")
R = TypeVar("R")


def name_of(function: Callable[..., object]) -> str:
    """What to call `function` in events and reports."""
    inner = function.func if isinstance(function, functools.partial) else function
    return getattr(inner, "__qualname__", type(inner).__name__)


def returned_coroutine(function: Callable[..., object], coroutine: Any) -> UsageError:
    """The error for a function that was taken for a plain one and returned `coroutine`, which is closed: it will not run."""
    coroutine.close()
    return UsageError(
        f"{name_of(function)} returned a coroutine, which would run outside the policy: make it `async def` and await inside, "
        "or put the policy around the coroutine function itself"
    )


def code_of(function: Callable[..., object]) -> Callable[..., object]:
    """What runs when `function` is called: what a partial is made of, and the `__call__` of an object.

    A class stays what it is: calling it makes an instance.
    """
    # Imported late: a program that decorates nothing does not pay for it, and it is a third of what Holdfast costs to load.
    import inspect

    while isinstance(function, functools.partial):
        function = function.func
    return function if isinstance(function, type) or inspect.isroutine(function) else type(function).__call__


def is_coroutine_function(function: Callable[..., object]) -> bool:
    """Whether calling `function` gives a coroutine, by what it says of itself (as `AsyncMock` does) or by its code."""
    import inspect  # late, as in `code_of`

    return inspect.iscoroutinefunction(function) or inspect.iscoroutinefunction(code_of(function))


def in_daemon_thread(function: Callable[[], R], *, name: str = "holdfast-call") -> Future[R]:
    """Call `function` in a thread of its own, in a copy of this context; a future with what it returns or raises
    (a `StopIteration` as the cause of a `RuntimeError`).

    For calls that may hang: an executor's thread would be waited for at the end of the process, this one is not. It begins at
    once; cancelling the future does nothing.
    """
    # Imported late: only those who bound somebody else's code need them.
    import contextvars
    import threading
    from concurrent.futures import Future

    future: Future[R] = Future()
    future.set_running_or_notify_cancel()
    context = contextvars.copy_context()

    def run() -> None:
        try:
            result = context.run(function)
        except StopIteration as error:
            # As in coroutines (PEP 479): an asyncio future cannot hold it, so whoever waits for one would wait for ever.
            stopped = RuntimeError(f"{name_of(function)} raised StopIteration")
            stopped.__cause__ = error
            future.set_exception(stopped)
        except BaseException as error:
            future.set_exception(error)
        else:
            future.set_result(result)

    threading.Thread(target=run, name=name, daemon=True).start()
    return future


class AroundCallables(ABC):
    """A policy that surrounds calls: `@policy`, `policy.call(...)`, `await policy.call_async(...)`."""

    __slots__ = ()

    @abstractmethod
    def _around(self, function: Callable[P, R]) -> Callable[P, R]:
        """`function` with the policy around each call."""

    @abstractmethod
    def _around_async(self, function: Callable[P, Awaitable[R]]) -> Callable[P, Awaitable[R]]:
        """The same for a coroutine function."""

    def __call__(self, function: Callable[P, R], /) -> Callable[P, R]:
        """Decorate `function`, synchronous or asynchronous; above `@staticmethod` and `@classmethod` as below them.

        Raises:
            ConfigurationError: it is not callable, or a generator function.
            UsageError: (on calling) it is no coroutine function, and returned a coroutine.
        """
        if isinstance(function, (staticmethod, classmethod)):
            return cast("Callable[P, R]", type(function)(self(function.__func__)))
        if _is_async(function):
            wrapper = cast("Callable[P, R]", self._around_async(cast("Callable[P, Awaitable[Any]]", function)))
        else:
            wrapper = self._around(function)
        return functools.wraps(function)(wrapper)

    def call(self, function: Callable[P, R], /, *args: P.args, **kwargs: P.kwargs) -> R:
        """Call `function` under the policy.

        Raises:
            ConfigurationError: it is a coroutine function (use `call_async`), a generator function, or not callable.
            UsageError: it returned a coroutine.
        """
        if _is_async(function):
            raise ConfigurationError(f"{name_of(function)} is asynchronous: use `await policy.call_async(...)`")
        return self._around(function)(*args, **kwargs)

    async def call_async(self, function: Callable[P, Awaitable[R]], /, *args: P.args, **kwargs: P.kwargs) -> R:
        """Call the coroutine function `function` under the policy.

        Raises:
            ConfigurationError: it is a plain function (use `call`), a generator function, or not callable.
        """
        if not _is_async(function):
            raise ConfigurationError(f"{name_of(function)} is not a coroutine function: use `policy.call(...)`")
        return await self._around_async(function)(*args, **kwargs)


def _is_async(function: Callable[..., object]) -> bool:
    import inspect  # late, as in `code_of`

    if not callable(function):
        raise ConfigurationError(f"a policy surrounds a callable, not {type(function).__name__}")
    if is_coroutine_function(function):
        return True
    code = code_of(function)
    if inspect.isgeneratorfunction(code) or inspect.isasyncgenfunction(code):
        raise ConfigurationError(
            f"{name_of(function)} is a generator: it would run outside the policy. "
            "Put the policy around the code that consumes it, or around what it calls"
        )
    return False
