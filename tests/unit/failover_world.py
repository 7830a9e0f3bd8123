"""A failover gate whose clock stands still, threads that wait at it, and a search whose questions a test answers."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from holdfast.failover import Ask, FailoverGate, FailoverSettings, Pause, Proof, search
from holdfast.testing import ManualClock

__all__ = ["GENEROUS_S", "NODE", "STANDBY", "WRITER", "Caller", "World", "world"]

WRITER, STANDBY, NODE = Proof(writable=True), Proof(writable=False), Proof(writable=True, clustered=True)
GENEROUS_S = 30.0
"""How long a test waits for another thread: only a bug makes it last."""


class Caller:
    """A thread that waits at a gate. `went`: whether the server had been away, or the error it was refused with."""

    def __init__(self, gate: FailoverGate, expires_at: float, **options: Any) -> None:
        self.went: bool | Exception | None = None
        self._gate = gate
        self._arguments = (expires_at, options)
        self._thread = threading.Thread(target=self._run)
        self._thread.start()

    def _run(self) -> None:
        expires_at, options = self._arguments
        try:
            self.went = self._gate.enter(expires_at, **options)
        except Exception as error:
            self.went = error

    @property
    def waits(self) -> bool:
        return self._thread.is_alive()

    def end(self) -> bool | Exception | None:
        """Wait for it; what came of it."""
        self._thread.join(GENEROUS_S)
        assert not self._thread.is_alive(), "a caller was forgotten at the gate"
        return self.went


class World:
    """A gate with its clock, and a search whose commands a test answers.

    Attributes:
        woken: how often a search was called for.
        told: `lost`, and the writers that were found, in order.
        paused: the pauses the search made.
        asked: the hosts it asked, with `+` where they had to prove that they have caught up.
    """

    def __init__(self, *, closed: bool = False, **settings: Any) -> None:
        self.clock = ManualClock()
        self.settings = FailoverSettings(**settings)
        self.woken = 0
        self.told: list[str] = []
        self.paused: list[float] = []
        self.asked: list[str] = []
        self.callers: list[Caller] = []
        self.gate = FailoverGate(
            waiting_max=self.settings.waiting_max, clock=self.clock, wake_search=self._wake, closed=closed
        )

    def _wake(self) -> None:
        self.woken += 1

    def join(self, *, for_s: float = 60.0, lost: bool = False, **options: Any) -> Caller:
        """Send a caller to the gate and wait until it waits there (or was let through, or refused)."""
        before = self.gate.waiting
        if lost:
            options["lost_at_outage"] = self.gate.outages
        caller = Caller(self.gate, self.clock.monotonic() + for_s, **options)
        # Those who were let through before may still be on their way out, with an alarm set.
        while caller.waits and not self.clock.waiting == self.gate.waiting > before:
            threading.Event().wait(0.001)
        self.callers.append(caller)
        return caller

    def answer(self) -> None:
        """The server answers somebody who asks now."""
        self.gate.answered(self.clock.monotonic())

    def run(
        self,
        *proofs: Proof | Callable[[], Proof],
        hosts: tuple[str, ...] = ("a",),
        current: str = "a",
        on_pause: Callable[[float], object] = lambda _: None,
    ) -> str | None:
        """Run a search to its end, its questions answered by `proofs` in order."""
        answers = iter(proofs)
        commands = search(
            self.gate,
            hosts,
            current,
            self.settings,
            random=lambda: 0.5,
            lost=lambda: self.told.append("lost"),
            found=self.told.append,
        )
        answer: Proof | None = None
        while True:
            try:
                command = commands.send(answer)
            except StopIteration as end:
                result: str | None = end.value
                return result
            answer = None
            if isinstance(command, Ask):
                self.asked.append(command.host + "+" * command.caught_up)
                given = next(answers)
                answer = given() if callable(given) else given
            else:
                assert isinstance(command, Pause)
                self.paused.append(command.seconds)
                self.clock.advance(command.seconds)
                on_pause(command.seconds)

    def lose(self, callers: int = 1, **options: Any) -> list[Caller]:
        """That many operations lose their server."""
        self.gate.suspect()
        return [self.join(lost=True, **options) for _ in range(callers)]


@contextmanager
def world(**settings: Any) -> Iterator[World]:
    """A world whose threads have ended when the block ends."""
    made = World(**settings)
    try:
        yield made
    finally:
        made.clock.advance(1e6)
        for caller in made.callers:
            caller.end()
        assert made.gate.waiting == 0
