"""A subject made of the user's own functions: `--app shop.drill:open_app`.

The name leads to a function that is given the URL of the drilled database and returns an object with two methods, each
synchronous or asynchronous:

    class App:
        async def save(self, identity: str, key: str) -> object:
            '''Save something that can be found again by `identity`. The same key may be asked for again, also at once.'''

        async def effects(self) -> Mapping[str, int]:
            '''How often each identity is in the database.'''

    def open_app(url: str) -> App: ...

An optional `set_up()` makes its tables, an optional `close()` gives everything back. What `save` returns must be the same for the
same key. Its exceptions are read as Holdfast raises them; any other one is taken for "not saved", as its callers would.
"""

from __future__ import annotations

import asyncio
import hashlib
import inspect
import json
import sys
from collections.abc import Callable, Mapping
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ...errors import ConfigurationError, HoldfastError, report_of
from ...outcome import Stage
from ..history import Answer
from .protected import reply_to
from .subject import Remote, Reply, time_left_s, told

if TYPE_CHECKING:
    from ..workloads import Call
    from .subject import Terms

__all__ = ["AppSubject", "opener_named"]


def opener_named(name: str) -> Callable[[str], Any]:
    """The function that `module:function` names; the module may lie in the current folder.

    Raises:
        ConfigurationError: there is no such module or function, or it is a coroutine function.
    """
    module_name, _, attribute = name.partition(":")
    if not module_name or not attribute:
        raise ConfigurationError(
            f"{name!r} does not name a function; write module:function, such as shop.drill:open_app"
        )
    here = str(Path.cwd())
    if here not in sys.path:
        sys.path.insert(0, here)  # an installed command looks only where it lies itself
    try:
        opener = getattr(import_module(module_name), attribute, None)
    except ImportError as error:
        raise ConfigurationError(
            f"the module {module_name} cannot be imported ({error}); is its folder on the path?"
        ) from error
    if not callable(opener):
        raise ConfigurationError(f"{module_name} has no function {attribute!r}")
    if inspect.iscoroutinefunction(opener):
        raise ConfigurationError(
            f"{name} is a coroutine function; write `def`, and open what has to be awaited in the app's `set_up`"
        )
    made: Callable[[str], Any] = opener
    return made


class AppSubject(Remote):
    """The user's own way to save, whatever it is."""

    name = "app"
    keyed = True

    def __init__(self, url: str, opener: Callable[[str], Any], terms: Terms) -> None:
        self._deadline_s = terms.deadline_s
        try:
            self._app = opener(url)
        except Exception as error:
            # Not its text, which may hold the URL.
            raise ConfigurationError(
                f"the function that opens the app raised {type(error).__name__}; call it with a database URL to see why"
            ) from error
        missing = [name for name in ("save", "effects") if not callable(getattr(self._app, name, None))]
        if missing:
            raise ConfigurationError(
                f"the app has no method {' and no method '.join(missing)}; it needs save and effects"
            )

    async def set_up(self) -> dict[str, Any]:
        """Let the app make its tables."""
        await self._call_if_there("set_up")
        return {}

    async def perform(self, call: Call) -> Reply:
        """As `Subject.perform`."""
        try:
            async with asyncio.timeout(time_left_s(self._deadline_s)):
                result = await _called(self._app.save, call.v["id"], call.key)
        except Exception as error:
            if isinstance(error, HoldfastError) or report_of(error) is not None:
                return reply_to(error)
            return told(Answer.FAIL, error, Stage.BODY)
        return Reply(Answer.OK, {"result": _comparable(result)})

    async def final(self) -> dict[str, Any]:
        """What the app finds."""
        effects = await _called(self._app.effects)
        if not isinstance(effects, Mapping):
            raise ConfigurationError(
                f"the app's effects() returned a {type(effects).__name__}; it returns a dict from each id to how often it is "
                "there"
            )
        return {"effects": {str(identity): int(times) for identity, times in effects.items()}}

    async def close(self) -> None:
        """Close the app."""
        await self._call_if_there("close")

    async def _call_if_there(self, name: str) -> None:
        method = getattr(self._app, name, None)
        if method is not None:
            await _called(method)


async def _called(method: Callable[..., Any], *args: Any) -> Any:
    if inspect.iscoroutinefunction(method):
        return await method(*args)
    returned = await asyncio.to_thread(method, *args)
    return await returned if inspect.isawaitable(returned) else returned


def _comparable(result: object) -> str:
    """A digest: what an app returns is no affair of the history's, only whether it is the same again."""
    text = json.dumps(result, default=repr, sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:16]
