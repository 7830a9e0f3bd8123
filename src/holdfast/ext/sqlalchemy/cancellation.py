"""How a cancelled call leaves its connection: at once.

Psycopg's asynchronous side does not let go when its task is cancelled. It first opens another connection to have the server
cancel the statement, up to 5 s, then waits for the statement's end, up to 5 s more. Where the network says nothing, that is
how late the caller's deadline becomes. Holdfast cuts such a connection anyway, never uses it again, and has its session ended
from a side connection, for which nobody waits (`killer`).

The other asynchronous drivers raise the cancellation as it comes.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from functools import cache
from typing import TYPE_CHECKING, Any

from sqlalchemy import event

if TYPE_CHECKING:
    from types import ModuleType

    from sqlalchemy.engine import Engine
    from sqlalchemy.engine.interfaces import Dialect

__all__ = ["leave_at_once", "opener"]

_INTERVAL_S = 0.1
"""Psycopg's own."""


def leave_at_once(engine: Engine) -> None:
    """Have the connections of an engine on psycopg's asynchronous side be made so that a cancelled call leaves at once.

    Unless `async_creator_fn` says who makes them.
    """

    def connecting(dialect: Dialect, _record: object, _arguments: object, parameters: dict[str, Any]) -> None:
        dbapi: Any = dialect.loaded_dbapi
        parameters.setdefault("async_creator_fn", opener(dbapi.psycopg))

    event.listen(engine, "do_connect", connecting)


@cache
def opener(psycopg: ModuleType) -> Callable[..., Awaitable[Any]]:
    """What to call instead of `psycopg.AsyncConnection.connect`."""
    base: Any = psycopg.AsyncConnection

    async def wait(self: Any, gen: Any, interval: float = _INTERVAL_S) -> Any:
        try:
            return await psycopg.waiting.wait_async(gen, self.pgconn.socket, interval)
        except (asyncio.CancelledError, KeyboardInterrupt, SystemExit):
            self.pgconn.finish()
            raise

    # A driver is known by the module of its connections' class.
    kind: Any = type("AsyncConnection", (base,), {"__module__": base.__module__, "__doc__": base.__doc__, "wait": wait})
    connect: Callable[..., Awaitable[Any]] = kind.connect
    return connect
