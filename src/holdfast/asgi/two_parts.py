"""One call of an application in two parts: up to its complete answer, and what it does after that (background tasks).

    parts = TwoParts()
    await parts.until_answered(app(scope, receive, send))       # `send` awaits parts.answered() when it has all of the answer
    ...                                                         # make it durable, and give it to the client
    await parts.rest()                                          # or give_up(): it was not to be

In between the application stands still where it sent the end of its answer. All of it runs in the task that asks, as if the call
had never been left: a task of its own would be outside of a transaction, which belongs to the task that opened it.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Generator
from typing import Any

__all__ = ["TwoParts"]

_log = logging.getLogger("holdfast")


class TwoParts:
    """A call of an application that can be left at its answer. Serves one call, in one task."""

    __slots__ = ("_steps", "_task")

    def __init__(self) -> None:
        self._steps: Any = None
        self._task: asyncio.Task[Any] | None = None

    async def until_answered(self, called: Awaitable[None]) -> None:
        """Run the application until its answer is complete, or to its end.

        Raises:
            BaseException: what it raises.
        """
        self._task = asyncio.current_task()
        self._steps = called.__await__()
        await _Driven(self)

    def answered(self) -> Awaitable[None]:
        """For the application's `send`: the answer is complete. It goes on with `rest`.

        Not if it is another task that sends, as those of some middleware and streams do: it cannot be left there, and runs to
        its end.
        """
        return _LEAVING if asyncio.current_task() is self._task else _STAYING

    @property
    def is_left(self) -> bool:
        """Whether there is more of it to run."""
        return self._steps is not None

    async def rest(self) -> None:
        """Run what is left, if anything.

        Raises:
            BaseException: what it raises.
        """
        if self._steps is not None:
            await _Driven(self)

    async def give_up(self) -> None:
        """End what is left, if anything, as if it had been cancelled: its answer is not given."""
        if self._steps is None:
            return
        task = asyncio.current_task()
        cancelled = 0 if task is None else task.cancelling()
        try:
            await _Driven(self, asyncio.CancelledError())
        except asyncio.CancelledError:
            if task is not None and task.cancelling() > cancelled:
                raise  # of the task itself, meanwhile
        except Exception as error:
            _log.warning("%s was raised while an answer was taken back that could not be kept", type(error).__name__)


class _Leave:
    """Leaves the application when it is awaited in it."""

    def __init__(self, *, leaves: bool) -> None:
        self._leaves = leaves

    def __await__(self) -> Generator[Any, None, None]:
        if self._leaves:
            yield self


_LEAVING, _STAYING = _Leave(leaves=True), _Leave(leaves=False)


class _Driven:
    """Awaited, it does the steps of an application that `await` would do, until it is to be left or ends."""

    __slots__ = ("_error", "_parts")

    def __init__(self, parts: TwoParts, error: BaseException | None = None) -> None:
        self._parts = parts
        self._error = error

    def __await__(self) -> Generator[Any, Any, None]:
        parts, error = self._parts, self._error
        steps = parts._steps
        try:
            while True:
                # What is waited for goes to the event loop, and what comes of it back into the application.
                waited = next(steps) if error is None else steps.throw(error)
                if waited is _LEAVING:
                    return
                error = None
                try:
                    yield waited
                except GeneratorExit:
                    steps.close()
                    raise
                except BaseException as caught:
                    error = caught
        except StopIteration:
            parts._steps = None
        except BaseException:
            parts._steps = None
            raise
        finally:
            error = None  # or it would hold, by its trace, the frame that holds it
