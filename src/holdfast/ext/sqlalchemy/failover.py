"""The failover of one database: who is at work on which server, and the thread or task that looks for the writer.

`holdfast.failover` decides; this file carries its commands out. One prober a database, and only while there is something to look
at: a daemon thread for threads, timers and a task for an event loop. Both end by themselves a second after the last operation.

The prober also looks after the operations under way, once a second. When none of them gets an answer for a while, the server is
asked for a sign of life, because a frozen one closes no connection. And a COMMIT that has taken half of the time its operation
had left is cut, so that the other half can be used to find out what became of it.
"""

from __future__ import annotations

import asyncio
import logging
import threading
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from sqlalchemy import event
from sqlalchemy.engine import Connection, Engine
from sqlalchemy.ext.asyncio import AsyncEngine

from ...deadline import reschedule, seconds, within
from ...dialects import classify
from ...events import FailoverEnded, FailoverStarted
from ...failover import Ask, FailoverGate, FailoverSettings, Pause, Phase, Proof, search
from ...outcome import Stage
from .address import Host
from .connecting import after_login
from .current import opening_or_ending_unit
from .engines import flavour_of
from .interrupt import cut
from .origin import NO_CONNECTION_LEFT
from .roles import CATCH_UP, proof_from, questions
from .watchdog import WATCHDOG

if TYPE_CHECKING:
    from sqlalchemy.pool import ConnectionPoolEntry

    from ...clock import Random, WaitingClock
    from ...failover import Command, Search
    from ...stream import EventStream
    from .engines import Endpoint
    from .watchdog import Guard

__all__ = ["Attempt", "Failover", "TurnedAway", "failover_of"]

_log = logging.getLogger("holdfast")

BEAT_S = 1.0
"""How often the prober looks after the operations under way."""

_ANSWERS_TO_CONNECT = 3
"""How often a driver asks until it is connected: the login, and what asyncmy and aiomysql set."""

_ALONE_S = 30.0
"""How long a search goes on when nobody waits for what it finds; the next operation begins another one."""


class TurnedAway(ConnectionError):
    """An operation would have connected to a server that is being looked for.

    Attributes:
        gate: where it waits instead.
    """

    def __init__(self, gate: FailoverGate) -> None:
        super().__init__("the server is being looked for")
        self.gate = gate


class Attempt:
    """One attempt that has a connection.

    Attributes:
        host: the server it goes to.
        driver_connection: the driver's own connection.
        guard: the watchdog's hold on it; None in an event loop.
        began_at, expires_at: monotonic seconds.
        settles: whether the operation can find out about a COMMIT that is cut.
        committing_since: when COMMIT was handed to the driver.
    """

    __slots__ = ("began_at", "committing_since", "driver_connection", "expires_at", "guard", "host", "settles")

    def __init__(
        self,
        host: Host | None,
        driver_connection: Any,
        guard: Guard | None,
        *,
        began_at: float,
        expires_at: float,
        settles: bool,
    ) -> None:
        self.host = host
        self.driver_connection = driver_connection
        self.guard = guard
        self.began_at = began_at
        self.expires_at = expires_at
        self.settles = settles
        self.committing_since: float | None = None


def failover_of(
    endpoint: Endpoint,
    settings: FailoverSettings,
    *,
    name: str,
    found: Callable[[Host | None], object],
    clock: WaitingClock,
    random: Random,
    events: EventStream,
) -> Failover | None:
    """The failover of an endpoint; None for SQLite, which has no server to lose.

    Args:
        endpoint: the servers, their engine and pool.
        settings: how a lost server is found again.
        name: the database's in events and log lines.
        found: called with the server that was proven after an outage.
        clock, random, events: as everywhere.
    """
    if endpoint.address.backend == "sqlite":
        return None
    kind = _ThreadFailover if endpoint.async_engine is None else _TaskFailover
    return kind(endpoint, settings, name=name, found=found, clock=clock, random=random, events=events)


class Failover:
    """The part that threads and tasks share.

    Attributes:
        gate: where operations wait while no server takes writes.
    """

    def __init__(
        self,
        endpoint: Endpoint,
        settings: FailoverSettings,
        *,
        name: str,
        found: Callable[[Host | None], object],
        clock: WaitingClock,
        random: Random,
        events: EventStream,
    ) -> None:
        self._endpoint = endpoint
        self._settings = settings
        self._name = name
        self._found = found
        self._clock = clock
        self._random = random
        self._events = events
        self._stall_s = seconds(settings.stall)
        self._attempts: dict[Attempt, None] = {}
        self._side_engines: dict[Host | None, Engine | AsyncEngine] = {}
        self._hosts: tuple[Host | None, ...] = endpoint.address.hosts or (None,)
        self._lost_at: float | None = None
        self._reasons: dict[Host | None, str] = {}
        self._closed = False
        self._known = len(self._hosts) == 1
        self.gate = FailoverGate(
            waiting_max=settings.waiting_max, clock=clock, wake_search=self._wake, closed=not self._known
        )
        event.listen(endpoint.engine, "do_connect", self._turn_away, insert=True)

    # -- told by the operations ----------------------------------------------------------------------------------------

    def began(self, attempt: Attempt) -> None:
        """An attempt has its connection."""
        self._attempts[attempt] = None

    def ended(self, attempt: Attempt) -> None:
        """An attempt has given its connection back, or closed it."""
        self._attempts.pop(attempt, None)

    def _turn_away(self, *_: object) -> None:
        """Before an operation connects: it may have waited for that, since the gate let it pass, until others lost the server."""
        if self.gate.is_searching and opening_or_ending_unit() is not None:
            raise TurnedAway(self.gate)

    # -- looking after them ----------------------------------------------------------------------------------------------

    def look(self) -> None:
        """Cut COMMITs that nobody answers, and suspect a server that answers nobody."""
        now = self._clock.monotonic()
        longest_s = 0.0
        for attempt in list(self._attempts):
            longest_s = max(longest_s, now - attempt.began_at)
            sent_at = attempt.committing_since
            if attempt.settles and sent_at is not None:
                patience_s = max(self._stall_s, (attempt.expires_at - sent_at) / 2)
                if now - sent_at >= patience_s:
                    self._cut(attempt)
        stalled = longest_s >= self._stall_s and not self.gate.answered_since(now - self._stall_s)
        # While callers are being let through, those that hang since before the outage say nothing about the server.
        if stalled and self.gate.phase is Phase.FLOWING:
            self.gate.suspect()

    def _cut(self, attempt: Attempt) -> None:
        raise NotImplementedError

    def close(self) -> None:
        """End the thread; operations that wait give up at their deadlines."""
        raise NotImplementedError

    async def aclose(self) -> None:
        """End timer and task; operations that wait give up at their deadlines."""
        raise NotImplementedError

    def forget(self) -> None:
        """In a forked child: thread, loop and operations are the parent's."""
        self._attempts.clear()
        self._side_engines.clear()
        self.gate.forget()

    # -- the search --------------------------------------------------------------------------------------------------------

    def _wake(self) -> None:
        raise NotImplementedError

    def _search(self) -> Search[Host | None]:
        return search(
            self.gate,
            self._hosts,
            self._endpoint.host,
            self._settings,
            random=self._random,
            lost=self._on_lost,
            found=self._on_found,
        )

    @property
    def _is_wanted(self) -> bool:
        return not self._closed and self.gate.is_searching

    def _gives_up(self, alone_since: float | None) -> bool:
        return self._closed or (alone_since is not None and self._clock.monotonic() - alone_since > _ALONE_S)

    def _on_lost(self) -> None:
        if not self._known:
            return  # the first look around, not an outage
        self._lost_at = self._clock.monotonic()
        reasons = "; ".join(f"{host or 'the server'}: {reason}" for host, reason in self._reasons.items())
        _log.warning(
            "%s: no server takes writes, operations wait for one (%s)", self._name, reasons or "connection lost"
        )
        if self._events.subscriptions:
            self._events.emit(FailoverStarted(self._name))

    def _on_found(self, host: Host | None) -> None:
        first, moved = not self._known, host != self._endpoint.host
        self._known = True
        if moved and host is not None:
            self._endpoint.move_to(host)
            for attempt in list(self._attempts):
                if attempt.host != host:
                    self._cut(attempt)
        elif not first:
            self._endpoint.retire()
        self._found(host)
        lost_at, self._lost_at = self._lost_at, None
        if lost_at is None:
            return
        elapsed_s = self._clock.monotonic() - lost_at
        _log.warning(
            "%s: %s takes writes, after %.1f s%s",
            self._name,
            host or "the server",
            elapsed_s,
            " (moved)" if moved else "",
        )
        if self._events.subscriptions:
            self._events.emit(FailoverEnded(self._name, moved, self.gate.waiting, elapsed_s))

    # -- asking ------------------------------------------------------------------------------------------------------------

    def _side_engine(self, host: Host | None) -> Engine | AsyncEngine:
        engine = self._side_engines.get(host)
        if engine is None:
            engine = self._side_engines[host] = self._endpoint.side_engine(host)
            self._listen_to(engine.sync_engine if isinstance(engine, AsyncEngine) else engine)
        return engine

    def _listen_to(self, engine: Engine) -> None:
        """Hear each answer, also those by which SQLAlchemy finds out what server it is."""
        dialect: Any = engine.dialect
        for name in ("do_execute", "do_execute_no_params"):
            setattr(dialect, name, self._hearing(getattr(dialect, name)))

    def _hearing(self, execute: Callable[..., None]) -> Callable[..., None]:
        def executed(*arguments: Any, **options: Any) -> None:
            execute(*arguments, **options)
            self._heard()

        return executed

    def _heard(self) -> None:
        """The server has answered the search, and has the whole time again for the next answer."""
        raise NotImplementedError

    def _question(self, connection: Connection, command: Ask[Host | None]) -> Proof:
        def answer(asked: str) -> list[Any]:
            result = connection.exec_driver_sql(asked)
            return list(result.all()) if result.returns_rows else []

        flavour = flavour_of(connection.dialect)
        proof = proof_from(flavour, [answer(asked) for asked in questions(flavour)])
        if proof.writable and command.caught_up:
            for statement in CATCH_UP:
                answer(statement)
        self._reasons[command.host] = proof.reason
        return proof

    def _refused(self, command: Ask[Host | None], error: BaseException) -> Proof:
        failure = classify(error, stage=Stage.CONNECT, flavour=self._endpoint.flavour)
        reason = "no answer in time" if isinstance(error, TimeoutError) else (failure.name or type(error).__name__)
        self._reasons[command.host] = reason
        return Proof(writable=False, full=failure.code in NO_CONNECTION_LEFT, reason=reason)


class _ThreadFailover(Failover):
    """For threads: one daemon thread, there while operations are."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._alarm = threading.Event()
        self._starting = threading.Lock()
        self._thread: threading.Thread | None = None
        self._guard: Guard | None = None
        self._answer_within_s = 0.0

    def began(self, attempt: Attempt) -> None:
        super().began(attempt)
        if self._thread is None:
            self._start()

    def close(self) -> None:
        self._closed = True
        self._alarm.set()
        thread = self._thread
        if thread is not None:
            thread.join(BEAT_S)
        for engine in self._side_engines.values():
            assert isinstance(engine, Engine)
            engine.dispose()

    def forget(self) -> None:
        super().forget()
        self._thread = None
        self._alarm = threading.Event()
        self._starting = threading.Lock()

    def _wake(self) -> None:
        self._alarm.set()
        self._start()

    def _start(self) -> None:
        with self._starting:
            if self._thread is None and not self._closed:
                thread = threading.Thread(target=self._run, name="holdfast-failover", daemon=True)
                thread.start()  # where there is no room for one now, the next who needs it tries again
                self._thread = thread

    def _run(self) -> None:
        while True:
            self._alarm.wait(BEAT_S)
            self._alarm.clear()
            self.look()
            while self._is_wanted:
                self._carry_out(self._search())
                if not self.gate.waiting and not self._attempts:
                    break  # given up: nobody wants to know
            if self._ends():
                return

    def _ends(self) -> bool:
        if not self._closed and (self._attempts or self.gate.waiting):
            return False
        with self._starting:
            if self._alarm.is_set() and not self._closed:
                return False  # somebody called for a search since, and saw this thread
            self._thread = None
        if self._attempts or self.gate.waiting:
            self._start()  # somebody came in between, and saw it too
        return True

    def _carry_out(self, commands: Search[Host | None]) -> None:
        answer: Proof | None = None
        alone_since: float | None = None
        while True:
            try:
                command: Command[Host | None] = commands.send(answer)
            except StopIteration:
                return
            if isinstance(command, Pause):
                self._clock.sleep(command.seconds)
                answer = None
                alone = not self.gate.waiting and not self._attempts
                alone_since = (alone_since or self._clock.monotonic()) if alone else None
                self.look()
            else:
                answer = self._ask(command)
            if self._gives_up(alone_since):
                commands.close()
                return

    def _ask(self, command: Ask[Host | None]) -> Proof:
        try:
            engine = self._side_engine(command.host)
            assert isinstance(engine, Engine)
            self._answer_within_s = command.timeout_s
            with within(command.timeout_s, clock=self._clock), engine.connect() as connection:
                self._heard()
                return self._question(connection, command)
        except Exception as error:
            return self._refused(command, error)
        finally:
            guard, self._guard = self._guard, None
            if guard is not None:
                guard.close()

    def _listen_to(self, engine: Engine) -> None:
        super()._listen_to(engine)
        after_login(engine, self._watch)

    def _watch(self, record: ConnectionPoolEntry) -> None:
        self._guard = WATCHDOG.guard(record.driver_connection, self._clock.monotonic() + self._answer_within_s)

    def _heard(self) -> None:
        if self._guard is not None:
            self._guard.expires_at = self._clock.monotonic() + self._answer_within_s

    def _cut(self, attempt: Attempt) -> None:
        if attempt.guard is not None:
            WATCHDOG.fire(attempt.guard)


class _TaskFailover(Failover):
    """For one event loop: a timer while operations are under way, and a task while there is a search."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._loop: asyncio.AbstractEventLoop | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._task: asyncio.Task[None] | None = None
        self._answer_within_s = 0.0
        self._answer_timer: asyncio.Timeout | None = None
        # Nobody hears how far a driver has come that connects. Where there is another server to ask, none is waited for so long.
        self._answers_to_connect = _ANSWERS_TO_CONNECT if len(self._hosts) == 1 else 1

    def began(self, attempt: Attempt) -> None:
        super().began(attempt)
        if self._timer is None:
            self._arm()

    async def aclose(self) -> None:
        self._closed = True
        if self._timer is not None:
            self._timer.cancel()
        if self._task is not None:
            self._task.cancel()
            await asyncio.wait([self._task])
        for engine in self._side_engines.values():
            assert isinstance(engine, AsyncEngine)
            await engine.dispose()

    def forget(self) -> None:
        super().forget()
        self._timer = self._task = None

    def _arm(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._timer = self._loop.call_later(BEAT_S, self._beat)

    def _beat(self) -> None:
        self._timer = None
        if self._closed:
            return
        self.look()
        if self._attempts:
            self._arm()

    def _wake(self) -> None:
        loop = asyncio.get_running_loop()
        if self._task is None or self._task.done() or self._loop is not loop:
            self._loop = loop
            self._task = loop.create_task(self._run(), name="holdfast-failover")

    async def _run(self) -> None:
        while self._is_wanted:
            await self._carry_out(self._search())
            if not self.gate.waiting and not self._attempts:
                return  # given up: nobody wants to know

    async def _carry_out(self, commands: Search[Host | None]) -> None:
        answer: Proof | None = None
        alone_since: float | None = None
        while True:
            try:
                command: Command[Host | None] = commands.send(answer)
            except StopIteration:
                return
            if isinstance(command, Pause):
                await self._clock.sleep_async(command.seconds)
                answer = None
                alone = not self.gate.waiting and not self._attempts
                alone_since = (alone_since or self._clock.monotonic()) if alone else None
            else:
                answer = await self._ask(command)
            if self._gives_up(alone_since):
                commands.close()
                return

    async def _ask(self, command: Ask[Host | None]) -> Proof:
        try:
            engine = self._side_engine(command.host)
            assert isinstance(engine, AsyncEngine)
            self._answer_within_s = command.timeout_s
            async with asyncio.timeout(command.timeout_s * self._answers_to_connect) as self._answer_timer:
                async with engine.connect() as connection:
                    self._heard()
                    return await connection.run_sync(self._question, command)
        except Exception as error:
            return self._refused(command, error)

    def _listen_to(self, engine: Engine) -> None:
        super()._listen_to(engine)
        after_login(engine, lambda _record: self._heard())

    def _heard(self) -> None:
        if self._answer_timer is not None:
            reschedule(self._answer_timer, asyncio.get_running_loop().time() + self._answer_within_s)

    def _cut(self, attempt: Attempt) -> None:
        if attempt in self._attempts:
            cut(attempt.driver_connection)
