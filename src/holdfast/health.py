"""Health: whether the process can go on (alive), and whether traffic should come here (ready).

    health = Health([disk_space("/var/lib/shop"), *db.health_checks()])
    health.add(HealthCheck("mail", mail.ping, critical=False))

    report = await health.report()          # bounded, cached, one run at a time however many ask
    report.state                            # ready, degraded, not-ready

Two questions, two answers, and mixing them up turns an outage of a dependency into one of yours:

- *Alive* depends on nothing. It says no only when this process cannot recover by itself and must be started anew
  (`report_broken`). A frozen event loop needs no report: it does not answer.
- *Ready* asks the checks. A critical one that failed takes this process out of the traffic; any other makes it `degraded`, which
  still serves. A single hiccup does neither: `fails_after` failures in a row must come first, and `recovers_after` successes
  before it is trusted again. `fail_open` is for what every replica loses at the same moment, such as the database: once it was
  there, its loss degrades but takes nobody out, because a service that answers "try again" is better than none.

What is decided is decided by pure functions (`judged`, `state_of`). What comes out holds names, states and ages; never the text
of an exception.
"""

from __future__ import annotations

import asyncio
import inspect
import logging
import shutil
from collections.abc import Awaitable, Callable, Iterable
from contextvars import Context
from dataclasses import dataclass
from enum import StrEnum
from typing import TYPE_CHECKING

from .callables import in_daemon_thread
from .clock import SYSTEM_CLOCK, WaitingClock
from .deadline import seconds
from .errors import ConfigurationError
from .traces import trace_of

if TYPE_CHECKING:
    from datetime import timedelta
    from os import PathLike

__all__ = [
    "Check",
    "CheckReport",
    "Finding",
    "Health",
    "HealthCheck",
    "HealthReport",
    "HealthState",
    "Standing",
    "disk_space",
    "judged",
    "state_of",
]

_log = logging.getLogger("holdfast")

_NAME_MAX = 64


class Finding(StrEnum):
    """What a check found."""

    UNKNOWN = "unknown"
    """It has not run yet."""
    OK = "ok"
    DEGRADED = "degraded"
    """It works, but not well: short of something, or a part of it is away."""
    FAILED = "failed"


class HealthState(StrEnum):
    """Whether traffic should come here."""

    READY = "ready"
    DEGRADED = "degraded"
    """It should, but somebody should look."""
    NOT_READY = "not-ready"


Check = Callable[[], object | Awaitable[object]]
"""A function or coroutine function. It returns a `Finding`, False for failed, anything else (also None) for ok; or it raises."""


@dataclass(frozen=True, slots=True)
class HealthCheck:
    """One thing to look at.

    Attributes:
        name: its name in the report, which anybody may see who can reach the endpoint; 64 characters at most.
        check: see `Check`. A plain function runs in a thread of its own. A round serves everybody who asks, so no check has
            the context of one of them, or its deadline.
        critical: its failure makes the process not ready; otherwise degraded. Default True.
        timeout: seconds (or `timedelta`) until it counts as failed; default 0.5 s, above 0: Kubernetes waits 1 s for the probe.
        cache_for: seconds (or `timedelta`) that a finding is good for; default 1 s.
        fails_after: failures in a row before what was good counts as failed; default 3, 1 or more.
        recovers_after: successes in a row before what had failed counts as good; default 2, 1 or more.
        fail_open: once it was good, its failure only degrades. Until then it keeps the process not ready, so that a release that
            cannot reach its database never gets traffic. Default False.

    Raises:
        ConfigurationError: a value outside these bounds.
    """

    name: str
    check: Check
    critical: bool = True
    timeout: float | timedelta = 0.5
    cache_for: float | timedelta = 1.0
    fails_after: int = 3
    recovers_after: int = 2
    fail_open: bool = False

    def __post_init__(self) -> None:
        if not 0 < len(self.name) <= _NAME_MAX or not self.name.isprintable():
            raise ConfigurationError(f"a health check needs a printable name of 1 to {_NAME_MAX} characters")
        if seconds(self.timeout, name="timeout") <= 0:
            raise ConfigurationError(f"the timeout of the health check {self.name} must be more than 0 seconds")
        seconds(self.cache_for, name="cache_for")
        if self.fails_after < 1 or self.recovers_after < 1:
            raise ConfigurationError(f"fails_after and recovers_after of {self.name} must be 1 or more")


# -- the core: pure ------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Standing:
    """What a check's findings add up to.

    Attributes:
        finding: what it counts as.
        since: since when (monotonic seconds).
        against: findings in a row that speak against it.
        asked_at: when it was last asked; None: never.
        was_good: whether it ever was ok or degraded.
    """

    finding: Finding = Finding.UNKNOWN
    since: float = 0.0
    against: int = 0
    asked_at: float | None = None
    was_good: bool = False


def judged(standing: Standing, found: Finding, check: HealthCheck, *, now: float) -> Standing:
    """The standing after one more finding. Pure.

    The first finding counts at once: before it the process was not ready anyway. Afterwards failing takes `fails_after` findings
    in a row and recovering `recovers_after`; from ok to degraded and back there is nothing to be careful about.
    """
    was_good = standing.was_good or found in {Finding.OK, Finding.DEGRADED}
    fails, failed = found is Finding.FAILED, standing.finding is Finding.FAILED
    if standing.finding is not Finding.UNKNOWN and fails is not failed:
        against = standing.against + 1
        if against < (check.fails_after if fails else check.recovers_after):
            return Standing(standing.finding, standing.since, against, now, was_good)
    since = standing.since if found is standing.finding else now
    return Standing(found, since, 0, now, was_good)


def state_of(
    standings: Iterable[tuple[HealthCheck, Standing]], *, started: bool = True, draining: bool = False
) -> HealthState:
    """Whether traffic should come, from what all the checks count as. Pure."""
    state = HealthState.READY if started and not draining else HealthState.NOT_READY
    for check, standing in standings:
        if standing.finding is Finding.OK:
            continue
        takes_out = standing.finding is not Finding.DEGRADED and check.critical
        if takes_out and not (check.fail_open and standing.was_good):
            return HealthState.NOT_READY
        if state is HealthState.READY:
            state = HealthState.DEGRADED
    return state


# -- the report ----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class CheckReport:
    """What one check counts as.

    Attributes:
        name, critical: the check's.
        finding: what it counts as.
        age_s: seconds since it was last asked; None: it never was.
        since_s: for how many seconds it has counted as that.
    """

    name: str
    critical: bool
    finding: Finding
    age_s: float | None
    since_s: float


@dataclass(frozen=True, slots=True)
class HealthReport:
    """Whether traffic should come here, and why.

    Attributes:
        state: ready, degraded, not ready.
        alive: whether the process can recover by itself.
        started: whether it has come up.
        draining: whether it is about to end.
        checks: in the order they were added.
    """

    state: HealthState
    alive: bool
    started: bool
    draining: bool
    checks: tuple[CheckReport, ...]

    def document(self) -> dict[str, object]:
        """The report as JSON values; always the same members."""
        return {
            "state": self.state.value,
            "alive": self.alive,
            "started": self.started,
            "draining": self.draining,
            "checks": [
                {
                    "name": check.name,
                    "state": check.finding.value,
                    "critical": check.critical,
                    "age_s": None if check.age_s is None else round(check.age_s, 1),
                    "since_s": round(check.since_s, 1),
                }
                for check in self.checks
            ],
        }


class _Entry:
    __slots__ = ("check", "in_thread", "running", "standing")

    def __init__(self, check: HealthCheck) -> None:
        self.check = check
        self.in_thread = False
        self.standing = Standing()
        self.running: asyncio.Future[Finding] | None = None


class Health:
    """The checks of one process and what they found. Belongs to one event loop; `report_broken` may be called from any thread.

    Args:
        checks: to begin with.
        started: False: not ready until `start` is called; default True.
        clock: measures ages and bounds the checks.
    """

    def __init__(
        self, checks: Iterable[HealthCheck] = (), *, started: bool = True, clock: WaitingClock = SYSTEM_CLOCK
    ) -> None:
        self._clock = clock
        self._entries: dict[str, _Entry] = {}
        self._round: asyncio.Task[None] | None = None
        self._broken: str | None = None
        self.started = started
        for check in checks:
            self.add(check)

    def add(self, check: HealthCheck) -> None:
        """Look at one more thing.

        Raises:
            ConfigurationError: there is a check of that name.
        """
        if check.name in self._entries:
            raise ConfigurationError(f"there is a health check called {check.name} already; give this one another name")
        self._entries[check.name] = _Entry(check)

    def remove(self, name: str) -> None:
        """Look at it no more; harmless if there is no such check."""
        self._entries.pop(name, None)

    def start(self) -> None:
        """The process has come up: migrations are done, caches are warm."""
        self.started = True

    def report_broken(self, what: str) -> None:
        """This process cannot recover by itself: `is_alive` says no from now on, so that a supervisor starts another one.

        Never for a dependency that is away: a restart does not bring it back, and every replica would restart at once.

        Args:
            what: for the log.
        """
        if self._broken is None:
            _log.critical("this process cannot recover by itself and asks to be restarted: %s", what)
            self._broken = what

    @property
    def is_alive(self) -> bool:
        """Whether the process can recover by itself. Depends on nothing."""
        return self._broken is None

    async def report(self, *, draining: bool = False) -> HealthReport:
        """Ask the checks whose findings are too old, all at once, and say what they add up to.

        Takes as long as the longest timeout at most. Whoever asks while a round is under way gets the result of that one.

        Args:
            draining: the process is about to end: not ready, and no check is asked.
        """
        if not draining:
            await self._ask()
        now = self._clock.monotonic()
        standings = [(entry.check, entry.standing) for entry in self._entries.values()]
        return HealthReport(
            state_of(standings, started=self.started, draining=draining or not self.is_alive),
            self.is_alive,
            self.started,
            draining,
            tuple(_report_of(check, standing, now) for check, standing in standings),
        )

    # -- asking --------------------------------------------------------------------------------------------------------

    async def _ask(self) -> None:
        if self._round is None or self._round.done():
            now = self._clock.monotonic()
            stale = [entry for entry in self._entries.values() if _is_stale(entry, now)]
            if not stale:
                return
            # In a context of its own: the first one's deadline says nothing of what the others may wait for.
            self._round = asyncio.get_running_loop().create_task(self._ask_all(stale), context=Context())
        # Shielded: one caller who goes away does not end the round for the others.
        await asyncio.shield(self._round)

    async def _ask_all(self, entries: list[_Entry]) -> None:
        found = await asyncio.gather(*(self._find(entry) for entry in entries))
        now = self._clock.monotonic()
        for entry, finding in zip(entries, found, strict=True):
            before = entry.standing.finding
            entry.standing = judged(entry.standing, finding, entry.check, now=now)
            if entry.standing.finding is not before:
                bad = entry.standing.finding is Finding.FAILED
                level = logging.WARNING if bad else logging.INFO
                _log.log(level, "health: %s went from %s to %s", entry.check.name, before, entry.standing.finding)

    async def _find(self, entry: _Entry) -> Finding:
        """One finding, in time; a check that still hangs from the last time is not called on top of that."""
        if entry.running is None:
            entry.running = asyncio.ensure_future(_found(entry))
            entry.running.add_done_callback(lambda _: _forget(entry))
        running = entry.running
        done = asyncio.Event()
        running.add_done_callback(lambda _: done.set())
        await self._clock.wait_async(done, seconds(entry.check.timeout))
        if not running.done():
            if not entry.in_thread:
                running.cancel()  # a thread goes on whatever is said, and is waited for
            return Finding.FAILED
        if running.cancelled():
            return Finding.FAILED
        error = running.exception()
        if error is not None:
            # Its text may hold anything; where it was raised stands in the log at debug level.
            _log.debug("health: the check %s raised\n%s", entry.check.name, trace_of(error))
            return Finding.FAILED
        return running.result()


def _forget(entry: _Entry) -> None:
    running, entry.running = entry.running, None
    if running is not None and not running.cancelled():
        running.exception()  # taken, so that nobody complains that it was not


def _is_stale(entry: _Entry, now: float) -> bool:
    asked_at = entry.standing.asked_at
    return asked_at is None or now - asked_at >= seconds(entry.check.cache_for)


def _report_of(check: HealthCheck, standing: Standing, now: float) -> CheckReport:
    asked_at = standing.asked_at
    age_s = None if asked_at is None else now - asked_at
    since_s = 0.0 if asked_at is None else now - standing.since
    return CheckReport(check.name, check.critical, standing.finding, age_s, since_s)


def _contained(check: Check) -> object:
    """What `check` returns, in its thread. What would end a process in the main one is a failure like any other here."""
    try:
        return check()
    except Exception:
        raise
    except BaseException as error:
        raise RuntimeError(f"the health check raised {type(error).__name__}") from error


async def _found(entry: _Entry) -> Finding:
    check = entry.check.check
    if inspect.iscoroutinefunction(check):
        result = await check()
    else:
        entry.in_thread = True
        try:
            result = await asyncio.wrap_future(in_daemon_thread(lambda: _contained(check), name="holdfast-health"))
        finally:
            entry.in_thread = False
    if inspect.isawaitable(result):
        result = await result
    if isinstance(result, Finding):
        return result
    return Finding.FAILED if result is False else Finding.OK


# -- ready-made ----------------------------------------------------------------------------------------------------------


def disk_space(
    path: str | PathLike[str],
    *,
    low: float = 0.1,
    least: float = 0.02,
    name: str = "disk",
    critical: bool = True,
    usage: Callable[[str | PathLike[str]], tuple[int, int, int]] = shutil.disk_usage,
) -> HealthCheck:
    """A check of the free space where `path` is: degraded when it gets low, failed when there is next to none.

    Args:
        path: a file or folder on the file system.
        low: the share (0 to 1) of free space below which it is degraded; default 0.1.
        least: the share below which it has failed; default 0.02, at most `low`.
        name: of the check.
        critical: of the check.
        usage: total, used and free bytes of a path.

    Raises:
        ConfigurationError: the shares are not in order.
    """
    if not 0 <= least <= low <= 1:
        raise ConfigurationError(f"disk_space needs 0 <= least <= low <= 1, not {least} and {low}")

    def look() -> Finding:
        total, _, free = usage(path)
        share = free / total if total else 0.0
        if share < least:
            return Finding.FAILED
        return Finding.DEGRADED if share < low else Finding.OK

    return HealthCheck(name, look, critical=critical, cache_for=10.0)
