"""What a client process does to itself when the crew says so: faults that no proxy and no signal can bring about.

    faults = InsideFaults(seed, subject, writer, asyncio.get_running_loop())
    faults.begin("pool-starvation", "")      # from another thread: the loop's goes on working
    faults.heal("pool-starvation")

They live in the memory of the process, so they end with it.
"""

from __future__ import annotations

import asyncio
import threading
from collections import Counter
from typing import TYPE_CHECKING, Any, Protocol

from ..errors import UsageError
from ..ext.sqlalchemy.faults import Fault, FaultPlan, Injection, SeededFaults, inject
from .faults import DnsFailure, StarvePool, StarveTaskPool

if TYPE_CHECKING:
    from sqlalchemy.engine import Engine

    from .history import HistoryWriter
    from .subjects import Subject

__all__ = ["INSIDE", "InsideFaults"]

INSIDE = ("commit", "pool-starvation", "dns-failure")
"""Their names: `commit` takes the share of all COMMITs that lose their connection, `dns-failure` the name that leads nowhere."""


class _Inside(Protocol):
    def start(self) -> dict[str, Any]: ...

    def heal(self) -> None: ...


class InsideFaults:
    """The faults of one client process, each at most once at a time. Use it from other threads than the event loop's.

    Args:
        seed: of what is drawn.
        subject: whose engine is disturbed.
        writer: where lost COMMITs are written down, as a proxy would.
        loop: the running event loop, in which the subject works.
    """

    def __init__(self, seed: int, subject: Subject, writer: HistoryWriter, loop: asyncio.AbstractEventLoop) -> None:
        self._seed = seed
        self._subject = subject
        self._writer = writer
        self._loop = loop
        self._lock = threading.Lock()
        self._present: dict[str, _Inside] = {}
        self._injection: Injection | None = None
        self._plan: FaultPlan | None = None

    def begin(self, name: str, argument: str) -> None:
        """Let one of `INSIDE` happen, until it is healed.

        Raises:
            UsageError: there is no such fault, or the subject's transactions run elsewhere.
            ConfigurationError: it cannot happen to this engine.
        """
        with self._lock:
            fault = self._make(name, argument)
            self._present[name] = fault
            fault.start()

    def heal(self, name: str) -> None:
        """Put it back as it was; nothing to do where it is not there."""
        with self._lock:
            fault = self._present.pop(name, None)
            if fault is not None:
                fault.heal()

    def heal_all(self) -> None:
        """Put everything back."""
        for name in list(self._present):
            self.heal(name)

    def _make(self, name: str, argument: str) -> _Inside:
        if name == "dns-failure":
            return DnsFailure(argument)
        if name == "commit":
            return _LostCommits(self, float(argument))
        if name != "pool-starvation":
            raise UsageError(f"no client process knows how to do {name!r} to itself; there are {', '.join(INSIDE)}")
        engine = self._engine()
        return StarveTaskPool(engine, self._loop) if engine.dialect.is_async else StarvePool(engine)

    def _engine(self) -> Engine:
        engine = self._subject.engine
        if engine is None:
            raise UsageError(f"the subject {self._subject.name} has no engine in this process to disturb")
        return engine

    def _lose_commits(self, share: float) -> None:
        """In the event loop's thread, which uses what is wrapped here."""
        if self._injection is None:
            # Once for all times: its counters name the connections in the history.
            self._injection = inject(self._engine(), lambda: self._plan() if self._plan is not None else None)
            self._injection.hits = _Hits(self._writer)
        self._plan = SeededFaults(self._seed, share, tuple(_LOST)) if share else None


class _LostCommits:
    """A share of all COMMITs lose their connection, before or after they are carried out."""

    def __init__(self, faults: InsideFaults, share: float) -> None:
        self._faults = faults
        self._share = share

    def start(self) -> dict[str, Any]:
        self._set(self._share)
        return {"share": self._share}

    def heal(self) -> None:
        self._set(0.0)

    def _set(self, share: float) -> None:
        async def there() -> None:
            self._faults._lose_commits(share)

        asyncio.run_coroutine_threadsafe(there(), self._faults._loop).result()


class _Hits(Counter[Fault]):
    """Counts what was injected, and writes each lost COMMIT into the history as a proxy would."""

    def __init__(self, writer: HistoryWriter) -> None:
        super().__init__()
        self._writer = writer

    def __setitem__(self, fault: Fault, times: int) -> None:
        super().__setitem__(fault, times)
        if fault not in _LOST:
            return
        seen, applied = _LOST[fault]
        connection = f"{self._writer.process}-{fault}-{times}"
        self._writer.wire(seen, connection)
        self._writer.wire("cut", connection, {"fault": fault.value, "applied": applied})


_LOST = {Fault.LOST_BEFORE_COMMIT: ("commit-seen", False), Fault.LOST_AFTER_COMMIT: ("commit-forwarded", True)}
