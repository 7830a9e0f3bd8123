"""The nemesis: plays a schedule of faults, writes down each, and heals whatever happens.

    Nemesis(schedule, lambda planned: KillServer(server), HistoryWriter(path, "nemesis")).run()

A fault is written down before it acts and after it is healed. It is healed when its time is over, when the drill is stopped, when
an exception goes by (Ctrl-C is one, and `endings.py` makes one of SIGTERM and SIGHUP), and when the interpreter ends.
"""

from __future__ import annotations

import atexit
from collections.abc import Callable, Mapping
from typing import Any, Protocol

from ..clock import SYSTEM_CLOCK, Clock
from .faults import Fault
from .schedule import Planned, Schedule

__all__ = ["Nemesis", "Recorder"]

_STEP_S = 0.1


class Recorder(Protocol):
    """Where faults are written down: a `HistoryWriter`."""

    def fault_start(self, name: str, value: Mapping[str, Any] | None = None) -> int:
        """Say that a fault begins; the answer names it at its end."""

    def fault_end(self, name: str, fault_id: int, value: Mapping[str, Any] | None = None) -> None:
        """Say that it is healed."""


class Nemesis:
    """Plays one schedule, once. For one thread; `stop` and `active` may be used from any.

    Args:
        schedule: what happens when.
        make: the fault for an entry of the schedule.
        record: where each is written down.
        clock: tells the time, and waits.
    """

    def __init__(
        self, schedule: Schedule, make: Callable[[Planned], Fault], record: Recorder, clock: Clock = SYSTEM_CLOCK
    ) -> None:
        self._schedule = schedule
        self._make = make
        self._record = record
        self._clock = clock
        self._stopped = False
        self._fault: Fault | None = None

    @property
    def active(self) -> str | None:
        """The name of the fault that is not healed yet."""
        return None if self._fault is None else self._fault.name

    def stop(self) -> None:
        """Begin no more faults, and heal the present one within 0.1 s."""
        self._stopped = True

    def run(self) -> None:
        """Play the schedule from now to the last heal. What comes late, because healing took long, ends as planned.

        Raises:
            Exception: whatever a fault raised, after it has been healed.
        """
        began_s = self._clock.monotonic()
        atexit.register(self._heal)
        try:
            for planned in self._schedule.faults:
                self._wait_until(began_s + planned.start_s)
                if self._stopped:
                    break
                if self._clock.monotonic() < began_s + planned.end_s:
                    self._play(planned, began_s)
        finally:
            self._heal()
            atexit.unregister(self._heal)

    def _play(self, planned: Planned, began_s: float) -> None:
        fault = self._make(planned)
        told: dict[str, Any] = {"scope": planned.scope.value, "nodes": list(planned.harm)}
        number = self._record.fault_start(fault.name, told)
        self._fault = fault  # before it acts: half a fault must be healed, too
        try:
            told |= fault.start()
            self._wait_until(began_s + planned.end_s)
        finally:
            self._heal()
            self._record.fault_end(fault.name, number, told)

    def _heal(self) -> None:
        if self._fault is not None:
            self._fault.heal()
            self._fault = None

    def _wait_until(self, moment_s: float) -> None:
        while not self._stopped and (left_s := moment_s - self._clock.monotonic()) > 0:
            self._clock.sleep(min(_STEP_S, left_s))
