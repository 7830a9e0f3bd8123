"""The failover gate: while no server takes writes, operations wait here instead of storming the ones that are left.

    FLOWING ──failure──► SUSPECT ──no proof──► AWAY ──writer proven──► RAMPING ──nobody waits──► FLOWING
                            │                   ▲                        │
                            └──proof──► FLOWING └────────failure─────────┘

An operation that loses its server does not retry on its own. It asks the gate, and one *search* finds out for everybody: is the
server there after all (then the operation's own attempts and budget apply), or has it gone (then everybody waits, and waiting
costs neither)? Only a positive proof of a server that takes writes opens the gate again, a few callers first, and twice as many
whenever one of them got through. So an outage costs each caller the attempt it lost, and the next one succeeds. Who waits for a
free connection of the pool meanwhile gets one when those who lost theirs close it: it is turned away instead of connecting.

The gate holds callers; it neither connects nor sleeps for itself. The search is a generator of commands: a thin shell carries
them out (`ext.sqlalchemy.failover`), so the whole failover runs in tests without a server or a clock.

Sources: Vitess' VTGate buffering (buffer size 1,000, drain after the new primary was seen), AWS' and Finagle's rule that a retry
needs a reason to believe, TCP's slow start for the release.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Generator, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from functools import partial
from typing import TYPE_CHECKING, Generic, TypeVar

from .backoff import Backoff
from .bounds import instance_of, whole_number
from .clock import WaitingClock
from .deadline import seconds
from .errors import ConfigurationError, NoWriter

if TYPE_CHECKING:
    from datetime import timedelta

    from .clock import Random

__all__ = [
    "Ask",
    "Command",
    "FailoverGate",
    "FailoverSettings",
    "Pause",
    "Phase",
    "Proof",
    "Search",
    "search",
]

H = TypeVar("H")


class Phase(StrEnum):
    """What the gate knows about the server."""

    FLOWING = "flowing"
    """Nothing to complain about: everybody passes."""
    SUSPECT = "suspect"
    """An operation lost its server, and it is being found out whether it is there. Only those who lost it wait."""
    AWAY = "away"
    """No server takes writes: everybody waits."""
    RAMPING = "ramping"
    """A server takes writes again: those who waited are let through, a few at first."""


@dataclass(frozen=True, slots=True, kw_only=True)
class FailoverSettings:
    """How a lost server is found again.

    Attributes:
        waiting_max: how many operations may wait at once; further ones are refused with `NoWriter`, but never those that
            have to find out about a COMMIT they sent. Default 1,000 (as Vitess), 1 or more.
        stall: seconds (or `timedelta`) an operation may go without any answer, while no other gets one either, before its
            server is asked for a sign of life; default 2 s, above 0. A frozen server does not close its connections.
        probe_timeout: seconds (or `timedelta`) a server has for each answer to the search, of which connecting takes several;
            default 1 s, above 0. One that answers slowly is there.
        proof_timeout: seconds (or `timedelta`) a new Galera node has to prove that it has caught up; default 12 s, above 0:
            survivors stand still for about 6 s when a node is lost (measured).
        pace: the pauses between two rounds of the search: full jitter from 50 ms to 1 s. Half of that found a server sooner, and
            passed 1.1 times the load at the wire where little is asked (measured).
        release_first: how many are let through first; default 4, 1 or more.
        release_pause: seconds (or `timedelta`) after which more are let through although none has got through yet; default
            0.5 s, above 0.

    Raises:
        ConfigurationError: a value outside these bounds.
    """

    waiting_max: int = 1_000
    stall: float | timedelta = 2.0
    probe_timeout: float | timedelta = 1.0
    proof_timeout: float | timedelta = 12.0
    pace: Backoff = field(default_factory=lambda: Backoff(base=0.05, cap=1.0))
    release_first: int = 4
    release_pause: float | timedelta = 0.5

    def __post_init__(self) -> None:
        for name in ("waiting_max", "release_first"):
            whole_number(getattr(self, name), name, 1)
        instance_of(self.pace, Backoff, "pace")
        for name in ("stall", "probe_timeout", "proof_timeout", "release_pause"):
            if seconds(getattr(self, name), name=name) <= 0:
                raise ConfigurationError(f"{name} must be more than 0 seconds")


SETTLE_S = 0.02
"""How long a search waits for another operation to get an answer before it connects: on a busy database one does."""

MANY = 3
"""So many operations that lose a server at once, while none gets an answer, have lost it by no fault of their own."""

RELEASE_STEP_S = 0.02
"""How often the search looks whether somebody of those let through has got through."""


_SEARCHED = frozenset({Phase.SUSPECT, Phase.AWAY})


class _Waiter:
    """A caller at the gate. Written and read under the gate's lock."""

    __slots__ = ("has_lost", "server_was_away", "wake")

    def __init__(self, wake: Callable[[], object], *, has_lost: bool) -> None:
        self.wake = wake
        self.has_lost = has_lost
        self.server_was_away = False


class FailoverGate:
    """Holds operations while no server takes writes. Safe in threads and tasks.

    Args:
        waiting_max: as in `FailoverSettings`.
        clock: measures and bounds the waiting.
        wake_search: called (outside of the lock) when a search has to be under way; must not block, and may come too often.
        closed: begin without knowing a writer, so that the first operation has it found.

    Attributes:
        closed: whether those who come fresh have to wait; read it without ceremony on the way in.
        outages: how many outages have ended; an attempt that began before the last one has lost its server.
    """

    def __init__(
        self, *, waiting_max: int, clock: WaitingClock, wake_search: Callable[[], object], closed: bool = False
    ) -> None:
        self.closed = closed
        self.outages = 0
        self._waiting_max = waiting_max
        self._clock = clock
        self._wake_search = wake_search
        self._lock = threading.Lock()
        self._phase = Phase.AWAY if closed else Phase.FLOWING
        self._suspected_at = float("-inf")
        self._needs_proof = False
        self._answered_at = float("-inf")
        self._answered_asked_at = float("-inf")
        self._waiters: dict[_Waiter, None] = {}  # in the order of arrival, and let through in it

    # -- what is known -------------------------------------------------------------------------------------------------

    @property
    def phase(self) -> Phase:
        """What the gate knows about the server."""
        return self._phase

    @property
    def waiting(self) -> int:
        """Callers at the gate now."""
        return len(self._waiters)

    @property
    def bereft(self) -> int:
        """Those of them that have lost the server; the others were about to connect, or begin."""
        with self._lock:
            return sum(waiter.has_lost for waiter in self._waiters)

    @property
    def is_searching(self) -> bool:
        """Whether the server is to be looked for: the search does that for everybody, and nobody else should connect."""
        return self._phase in _SEARCHED

    def has_let_through(self, outages: int) -> bool:
        """Whether who was let through when `outages` had ended may still go on without waiting again."""
        return self._phase is Phase.RAMPING and self.outages == outages

    def now(self) -> float:
        """The moment by the gate's clock, monotonic seconds."""
        return self._clock.monotonic()

    def answered_since(self, moment: float) -> bool:
        """Whether any operation got an answer after `moment` (monotonic seconds)."""
        return self._answered_at > moment

    @property
    def is_cleared(self) -> bool:
        """Whether an operation that asked after the suspicion came up got its answer, and that is proof enough."""
        return not self._needs_proof and self._answered_asked_at > self._suspected_at

    @property
    def needs_proof(self) -> bool:
        """Whether a server said that it takes no writes: then nothing but a proof that one does is enough."""
        return self._needs_proof

    # -- the operations' side ------------------------------------------------------------------------------------------

    def answered(self, asked_at: float) -> None:
        """The server answered an operation; as far as is known, just now.

        Args:
            asked_at: when it was asked, monotonic seconds. A thread may get to tell of an answer long after it came, when the
                server has gone since; so only who was asked after a suspicion can clear it.
        """
        self._answered_at = self._clock.monotonic()
        self._answered_asked_at = max(self._answered_asked_at, asked_at)

    def suspect(self, *, role_changed: bool = False) -> None:
        """The server may be gone; begin a search unless one is under way.

        Args:
            role_changed: it said itself that it takes no writes, so that others get answers proves nothing.
        """
        with self._lock:
            self._needs_proof = self._needs_proof or role_changed
            if self._phase is Phase.RAMPING:
                self._close()  # the search that lets them through goes on looking
            if self._phase is not Phase.FLOWING:
                return
            self._phase = Phase.SUSPECT
            self._suspected_at = self._clock.monotonic()
        self._wake_search()

    def enter(
        self,
        expires_at: float,
        *,
        lost_at_outage: int | None = None,
        turned_away: bool = False,
        urgent: bool = False,
    ) -> bool:
        """Wait until there is a server to go to, at most until `expires_at` (monotonic seconds).

        Args:
            expires_at: when the caller's time is up; it returns then, too.
            lost_at_outage: `outages` when the attempt began that has lost its server, or was turned away; None for a first one.
            turned_away: it was, and has lost nothing.
            urgent: the caller is owed the truth about a COMMIT; it is never refused.

        Returns:
            Whether the server was away since: then the failure was not the operation's own.

        Raises:
            NoWriter: enough callers wait already.
        """
        event = threading.Event()
        waiter = self._join(event.set, lost_at_outage, turned_away=turned_away, urgent=urgent)
        if isinstance(waiter, bool):
            return waiter
        try:
            self._clock.wait(event, max(0.0, expires_at - self._clock.monotonic()))
        finally:
            self._leave(waiter)
        return waiter.server_was_away

    async def enter_async(
        self,
        expires_at: float,
        *,
        lost_at_outage: int | None = None,
        turned_away: bool = False,
        urgent: bool = False,
    ) -> bool:
        """As `enter`; cancelling the task ends the wait."""
        import asyncio

        event = asyncio.Event()
        loop = asyncio.get_running_loop()
        wake = partial(loop.call_soon_threadsafe, event.set)
        waiter = self._join(wake, lost_at_outage, turned_away=turned_away, urgent=urgent)
        if isinstance(waiter, bool):
            return waiter
        try:
            await self._clock.wait_async(event, max(0.0, expires_at - self._clock.monotonic()))
        finally:
            self._leave(waiter)
        return waiter.server_was_away

    def _join(
        self, wake: Callable[[], object], lost_at_outage: int | None, *, turned_away: bool, urgent: bool
    ) -> _Waiter | bool:
        with self._lock:
            fresh = lost_at_outage is None
            missed = not fresh and lost_at_outage != self.outages
            if self._phase is Phase.FLOWING or (self._phase is Phase.SUSPECT and fresh):
                return missed
            if not urgent and len(self._waiters) >= self._waiting_max:
                raise NoWriter(
                    f"no server takes writes now, and {len(self._waiters)} operations wait for one already; try again later",
                    retry_after_s=1.0,
                )
            waiter = _Waiter(wake, has_lost=not fresh and not turned_away)
            waiter.server_was_away = missed or self._phase is Phase.RAMPING
            self._waiters[waiter] = None
            searched = self._phase is not Phase.RAMPING
        if searched:
            self._wake_search()  # the last search may have ended because nobody waited
        return waiter

    def _leave(self, waiter: _Waiter) -> None:
        with self._lock:
            self._waiters.pop(waiter, None)
            if not self._waiters and self._phase is Phase.RAMPING:
                self._open()

    def forget(self) -> None:
        """In a forked child: whoever waited, searched or held the lock is a thread of the parent."""
        self._lock = threading.Lock()
        self._waiters = {}
        if self._phase is not Phase.AWAY:
            self._open()

    # -- the search's side ---------------------------------------------------------------------------------------------

    def acquit(self) -> None:
        """The server is there after all: those who suspected it have failed of something else."""
        with self._lock:
            self._phase = Phase.FLOWING
            self._needs_proof = False
            self._release(len(self._waiters))

    def close(self) -> None:
        """No server takes writes: from now on everybody waits."""
        with self._lock:
            self._close()

    def proven(self) -> None:
        """A server takes writes: whoever waits may be let through, by `release`."""
        with self._lock:
            self.outages += 1
            self._phase = Phase.RAMPING
            self.closed = True  # it may not have been: those who come fresh stand in line behind the ones who lost it
            self._needs_proof = False
            for waiter in self._waiters:
                waiter.server_was_away = True
            if not self._waiters:
                self._open()

    def release(self, number: int) -> int:
        """Let the first `number` of those who wait through; how many still wait."""
        with self._lock:
            if self._phase is Phase.RAMPING:
                self._release(number)
                if not self._waiters:
                    self._open()
            return len(self._waiters)

    def _close(self) -> None:
        self._phase = Phase.AWAY
        self.closed = True

    def _open(self) -> None:
        self._phase = Phase.FLOWING
        self.closed = False

    def _release(self, number: int) -> None:
        for waiter in list(self._waiters)[:number]:
            del self._waiters[waiter]
            try:
                waiter.wake()
            except RuntimeError:  # its event loop was closed without ending it: nobody is there to be let through
                continue


# -- the search ----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Ask(Generic[H]):
    """Command of a search: ask a server whether it takes writes. Answered with a `Proof`.

    Attributes:
        host: which.
        timeout_s: how long the server may take for each answer, in seconds.
        caught_up: have it prove as well that it has applied everything its cluster had acknowledged.
    """

    host: H
    timeout_s: float
    caught_up: bool = False


@dataclass(frozen=True, slots=True)
class Pause:
    """Command of a search: wait `seconds`. Answered with None."""

    seconds: float


@dataclass(frozen=True, slots=True)
class Proof:
    """What a server answered.

    Attributes:
        writable: whether it takes writes now; False also for no answer at all.
        clustered: whether it is a node of a cluster that applies what others acknowledged a little later (Galera).
        full: it has no connection left for the question. So it is there, which clears it of having gone, and no more.
        reason: why not, for people.
    """

    writable: bool
    clustered: bool = False
    full: bool = False
    reason: str = ""


Command = Ask[H] | Pause
Search = Generator["Command[H]", "Proof | None", H | None]


def search(
    gate: FailoverGate,
    hosts: Sequence[H],
    current: H,
    settings: FailoverSettings,
    *,
    random: Random,
    lost: Callable[[], object],
    found: Callable[[H], object],
) -> Search[H]:
    """Find out whether `current` is there, or which server is the writer; then let those who wait through.

    Args:
        gate: who waits.
        hosts: every server, in the order of preference.
        current: the one in use; asked only when it is suspected, so any will do while none was chosen.
        settings: how long and how often.
        random: draws the jitter of the pauses.
        lost: called when the outage is certain and everybody waits.
        found: called with the writer after an outage, before anybody is let through.

    Returns:
        The writer that was proven, or None when the server in use had been there all along.
    """
    probe_s = seconds(settings.probe_timeout)
    if gate.phase is Phase.SUSPECT:
        yield Pause(SETTLE_S)
        if gate.is_cleared:
            gate.acquit()
            return None
        proof = yield Ask(current, probe_s)
        full = proof is not None and proof.full and not gate.needs_proof
        # A server with too much to do may turn the search away, or let it wait, while it serves others.
        if full or gate.is_cleared:
            gate.acquit()
            return None
        if proof is not None and proof.writable:
            if gate.bereft < MANY:
                gate.acquit()
                return None
            if (yield from _let_through(gate, current, settings, found)):
                return current
    gate.close()
    lost()
    fruitless = 0
    while True:
        writer = yield from _writer_among(hosts, settings)
        if writer is not None and (yield from _let_through(gate, writer, settings, found)):
            return writer
        fruitless += 1
        yield Pause(settings.pace.delay_s(fruitless, random()))


def _writer_among(hosts: Sequence[H], settings: FailoverSettings) -> Generator[Command[H], Proof | None, H | None]:
    probe_s, proof_s = seconds(settings.probe_timeout), seconds(settings.proof_timeout)
    for host in hosts:
        proof = yield Ask(host, probe_s)
        if proof is not None and proof.writable and proof.clustered and len(hosts) > 1:
            # It may not have applied yet what the lost node acknowledged: a read there could miss it.
            proof = yield Ask(host, proof_s, caught_up=True)
        if proof is not None and proof.writable:
            return host
    return None


def _let_through(
    gate: FailoverGate, writer: H, settings: FailoverSettings, found: Callable[[H], object]
) -> Generator[Pause, Proof | None, bool]:
    """Open the gate step by step; False when it was closed again meanwhile."""
    found(writer)
    gate.proven()
    number = settings.release_first
    steps = max(1, round(seconds(settings.release_pause) / RELEASE_STEP_S))
    released_at = gate.now()
    while gate.release(number):
        for _ in range(steps):
            yield Pause(RELEASE_STEP_S)
            if gate.phase is not Phase.RAMPING:
                # Suspected again; or all have left, and then a new suspicion is another search's to answer.
                return gate.phase is not Phase.AWAY
            if gate.answered_since(released_at):
                break
        released_at = gate.now()
        number *= 2
    return gate.phase is not Phase.AWAY
