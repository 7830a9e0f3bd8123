"""What happens when: toxics with their phase, their selector, their chance and how often.

Pure but for the draws, which are handed in. The proxy's thread asks, any thread may add and remove: what is asked from is
replaced, never changed.
"""

from __future__ import annotations

import enum
import threading
from collections.abc import Callable

from ..clock import Random
from ..errors import ConfigurationError
from .pacing import Turns
from .toxics import Down, Queue, ResetPeer, Stream, Timeout, Toxic
from .wire.conversation import Kind, Statement

__all__ = ["Handle", "Phase", "Plan", "Selector", "check"]

Selector = Kind | Callable[[Statement], bool] | None
"""Which statements: of a kind, those that a function picks, or (None) any. The function runs in the proxy's thread."""


class Phase(enum.StrEnum):
    """The moment at which a toxic acts."""

    ALWAYS = "always"
    """On whole connections, those that are open and those to come."""
    CONNECT = "connect"
    """When a client has connected, before the server knows."""
    BEFORE = "before"
    """When a statement has come, before any of it is forwarded."""
    FORWARDED = "forwarded"
    """When a statement was forwarded whole, without waiting for its answer: the server may or may not carry it out."""
    ANSWERED = "answered"
    """When the server has answered a statement in full, before any of the answer reaches the client."""
    DELIVERED = "delivered"
    """When the answer was passed on in full."""


class Handle:
    """A toxic at work. Safe in threads.

    Attributes:
        toxic: what it does.
        at: when.
        hits: how often it has acted.
        turns: whose turn it is, where it is a `Queue`.
    """

    __slots__ = ("_remove", "_times", "at", "hits", "on", "stream", "toxic", "toxicity", "turns")

    def __init__(
        self,
        toxic: Toxic,
        at: Phase,
        on: Selector,
        stream: Stream | None,
        toxicity: float,
        times: int | None,
        remove: Callable[[Handle], None],
    ) -> None:
        self.toxic = toxic
        self.at = at
        self.on = on
        self.stream = stream
        self.toxicity = toxicity
        self.hits = 0
        self.turns = Turns()
        self._times = times
        self._remove = remove

    def __repr__(self) -> str:
        return f"<{self.toxic!r} at {self.at}, {self.hits} hits>"

    def remove(self) -> None:
        """End it: it acts no more, open connections are as before, and those it held are dropped. Again: nothing happens."""
        self._remove(self)

    @property
    def spent(self) -> bool:
        """Whether it has acted as often as it should."""
        return self._times is not None and self._times <= 0

    def strikes(self, draw: Random) -> bool:
        """Whether it acts this time; counts against `times`."""
        if self.spent or (self.toxicity < 1 and draw() >= self.toxicity):
            return False
        if self._times is not None:
            self._times -= 1
        return True

    def covers(self, stream: Stream) -> bool:
        """Whether it acts on this direction."""
        return self.stream is None or self.stream is stream

    def selects(self, statement: Statement) -> bool:
        """Whether it is meant for `statement`."""
        if self.on is None:
            return statement.kind is not Kind.COMMAND
        return statement.kind is self.on if isinstance(self.on, Kind) else self.on(statement)


class Plan:
    """The toxics of one proxy.

    Attributes:
        watches_statements: whether a statement has to be looked at at all.
        error: the first exception of a selector; it selects nothing then.
    """

    def __init__(self, draw: Random) -> None:
        self._draw = draw
        self._lock = threading.Lock()
        self._by_phase: dict[Phase, tuple[Handle, ...]] = {}
        self.watches_statements = False
        self.error: Exception | None = None

    @property
    def always(self) -> tuple[Handle, ...]:
        """What acts on whole connections."""
        return self._by_phase.get(Phase.ALWAYS, ())

    def add(self, handle: Handle) -> None:
        """Let `handle` act from now on."""
        with self._lock:
            known = self._by_phase.get(handle.at, ())
            self._replace({**self._by_phase, handle.at: (*known, handle)})

    def remove(self, handle: Handle) -> bool:
        """End it; whether it was there."""
        with self._lock:
            known = self._by_phase.get(handle.at, ())
            kept = tuple(other for other in known if other is not handle)
            by_phase = {phase: handles for phase, handles in self._by_phase.items() if phase is not handle.at}
            self._replace({**by_phase, handle.at: kept} if kept else by_phase)
            return len(kept) < len(known)

    def clear(self) -> None:
        """End all."""
        with self._lock:
            self._replace({})

    def _replace(self, by_phase: dict[Phase, tuple[Handle, ...]]) -> None:
        self._by_phase = by_phase
        self.watches_statements = not by_phase.keys().isdisjoint(_OF_STATEMENTS)

    def at(self, phase: Phase, statement: Statement | None = None) -> list[Handle]:
        """What acts now, in the order in which it was added; counts against `times`."""
        handles = self._by_phase.get(phase)
        if not handles:
            return []
        meant = [handle for handle in handles if statement is None or self._selects(handle, statement)]
        struck = [handle for handle in meant if handle.strikes(self._draw)]
        for handle in handles:
            if handle.spent:
                self.remove(handle)
        return struck

    def _selects(self, handle: Handle, statement: Statement) -> bool:
        try:
            return handle.selects(statement)
        except Exception as error:
            self.error = self.error or error
            return False


_OF_STATEMENTS = (Phase.BEFORE, Phase.FORWARDED, Phase.ANSWERED, Phase.DELIVERED)


def check(toxic: Toxic, at: Phase, on: Selector, stream: Stream | None, toxicity: float, times: int | None) -> None:
    """Refuse what cannot work.

    Raises:
        ConfigurationError: and its text says why.
    """
    if not 0 <= toxicity <= 1:
        raise ConfigurationError(f"toxicity is a share from 0 to 1, not {toxicity!r}")
    if times is not None and times < 1:
        raise ConfigurationError(f"times is 1 or more, or None for any number, not {times!r}")
    if on is not None and at not in _OF_STATEMENTS:
        raise ConfigurationError(
            f"at {at} there is no statement to select; choose a phase of statements, or leave `on` out"
        )
    if isinstance(toxic, Down) and (at is not Phase.ALWAYS or toxicity < 1 or times is not None or stream is not None):
        raise ConfigurationError("Down acts on all; to refuse some connections, use ResetPeer() at Phase.CONNECT")
    if isinstance(toxic, Queue) and (at is not Phase.BEFORE or stream is not None):
        raise ConfigurationError(
            "statements queue up before they are forwarded: use Queue at Phase.BEFORE, without `stream`"
        )
    if isinstance(toxic, ResetPeer) and stream is not None:
        raise ConfigurationError("a reset ends both directions; leave `stream` out")
    if isinstance(toxic, Timeout) and at is Phase.CONNECT and stream is not None:
        raise ConfigurationError(
            "before the server knows of a connection there is one direction only; leave `stream` out"
        )
