"""Which operations came as far as the wire: for those that end without a connection, whether one was being opened for them.

    watch(subject.engine)
    with arriving() as arrival:
        ...                         # perform, in this context or in one that is begun here
    arrival.connecting

Whoever waits for a connection of the pool in vain has asked nothing of the server; whoever has one opened has, also if it never
comes that far.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from typing import TYPE_CHECKING

from sqlalchemy import event

if TYPE_CHECKING:
    from sqlalchemy.engine import Engine

__all__ = ["Arrival", "arriving", "watch"]


@dataclass(slots=True)
class Arrival:
    """How far one operation has come.

    Attributes:
        connecting: whether a connection was opened for it, or was to be.
    """

    connecting: bool = False


_current: ContextVar[Arrival | None] = ContextVar("holdfast_drill_arrival", default=None)


@contextmanager
def arriving() -> Iterator[Arrival]:
    """The operation of this block; contexts that are begun inside belong to it."""
    arrival = Arrival()
    token = _current.set(arrival)
    try:
        yield arrival
    finally:
        _current.reset(token)


def watch(engine: Engine) -> None:
    """Have every connection that `engine` opens noted, for the operation that it is opened for."""

    def on_connect(*_: object) -> None:
        arrival = _current.get()
        if arrival is not None:
            arrival.connecting = True

    event.listen(engine, "do_connect", on_connect)  # after Holdfast's own, which may turn it away
