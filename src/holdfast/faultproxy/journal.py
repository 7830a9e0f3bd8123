"""What went over the wire: counters, and one event for each thing worth telling.

An event is a JSON object: `{"type": "wire", "t": ns, "p": "proxy", "f": what, "c": connection, "v": {...}}`, `t` on the monotonic
clock in nanoseconds. `f` is one of

- `connect`: a client has connected. `refuse`: it was turned away (`v.reason`)
- `begin`: a transaction begins, as far as one can see (see `Counters`)
- `commit-seen`, `commit-forwarded`, `commit-answered`: a COMMIT has come whole, was forwarded whole, and its answer was passed on
  to the client in full; `v.ok` tells whether it was an error
- `cut`: a fault ended or silenced a connection; `hit`: a fault of another kind acted. `v.fault` and `v.phase` say which; at
  `answered`, `v.ok` tells what the client was not told
- `count`: once a second, what was counted since the last one
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from typing import Any

from ..clock import Clock
from .wire.conversation import Kind, Statement

__all__ = ["Counters", "Journal", "OnEvent"]

OnEvent = Callable[[dict[str, Any]], object]
"""Takes each event, in the proxy's thread; it must be quick."""


@dataclass(slots=True)
class Counters:
    """What a proxy has seen since it was started.

    Attributes:
        connects: clients that connected.
        begins: transactions that were seen to begin: by a BEGIN, or where there was none (`SET autocommit=0`) by the server's own
            word that a transaction is open. One that begins and ends within one message without a BEGIN of its own is not seen,
            nor is what an autocommitted statement does.
        statements: statements that came whole, of every kind; preparations and pings are none.
        commits: COMMITs among them. commits_forwarded, commits_answered: those that went on to the server, and those whose answer
            went on to the client.
        rollbacks: ROLLBACKs among them, those to a savepoint left out.
        cuts: connections that a fault ended or silenced.
        refused: connections turned away because they wanted what the proxy cannot read.
    """

    connects: int = 0
    begins: int = 0
    statements: int = 0
    commits: int = 0
    commits_forwarded: int = 0
    commits_answered: int = 0
    rollbacks: int = 0
    cuts: int = 0
    refused: int = 0


class Journal:
    """Counts and tells. Used in the proxy's thread alone; `snapshot` in any."""

    def __init__(self, clock: Clock, on_event: OnEvent | None) -> None:
        self._clock = clock
        self._on_event = on_event
        self._counters = Counters()
        self._told = Counters()
        self.error: BaseException | None = None

    @property
    def listened_to(self) -> bool:
        """Whether there is somebody to tell."""
        return self._on_event is not None

    def snapshot(self) -> Counters:
        """The counters of now."""
        return replace(self._counters)

    def tell(self, what: str, connection: int, **values: object) -> None:
        """Call the listener. Its first exception ends the telling; the proxy raises it when it is closed."""
        if self._on_event is None:
            return
        now_ns = int(self._clock.monotonic() * 1e9)
        try:
            self._on_event({"type": "wire", "t": now_ns, "p": "proxy", "f": what, "c": connection, "v": values})
        except Exception as error:
            self.error = error
            self._on_event = None

    def connected(self, connection: int, client_port: int) -> None:
        """A client has connected."""
        self._counters.connects += 1
        self.tell("connect", connection, client_port=client_port)

    def refused(self, connection: int, reason: str) -> None:
        """A client was turned away."""
        self._counters.refused += 1
        self.tell("refuse", connection, reason=reason)

    def seen(self, connection: int, statement: Statement) -> None:
        """A statement has come whole."""
        kind = statement.kind
        if kind is Kind.COMMAND:
            return
        self._counters.statements += 1
        if kind is Kind.COMMIT:
            self._counters.commits += 1
            self.tell("commit-seen", connection)
        elif kind is Kind.ROLLBACK:
            self._counters.rollbacks += 1

    def began(self, connection: int) -> None:
        """A transaction was seen to begin."""
        self._counters.begins += 1
        self.tell("begin", connection)

    def forwarded(self, connection: int, statement: Statement) -> None:
        """A statement was passed on whole."""
        if statement.kind is Kind.COMMIT:
            self._counters.commits_forwarded += 1
            self.tell("commit-forwarded", connection)

    def answered(self, connection: int, statement: Statement) -> None:
        """The answer to a statement was passed on whole."""
        if statement.kind is Kind.COMMIT:
            self._counters.commits_answered += 1
            self.tell("commit-answered", connection, ok=not statement.failed)

    def struck(self, connection: int, *, cut: bool, **values: object) -> None:
        """A fault has acted."""
        if cut:
            self._counters.cuts += 1
        self.tell("cut" if cut else "hit", connection, **values)

    def count(self) -> None:
        """Tell what was counted since the last time."""
        now, told = asdict(self._counters), asdict(self._told)
        self._told = self.snapshot()
        self.tell("count", 0, **{name: value - told[name] for name, value in now.items()})
