"""A whole history: what the checkers judge."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from .events import NS, FaultSpan, Final, Operation, PhaseSpan, Sample, Wire

__all__ = ["History"]


@dataclass(frozen=True, eq=False)
class History:
    """A whole run, merged and checked: what the checkers judge. Immutable, so safe to share.

    Attributes:
        metas: what each file said of itself, in the order of time.
        operations: by the moment they were begun.
        faults, phases: by their start.
        wire, samples, finals: by their moment.
        start, end: the first and the last moment, nanoseconds; both 0 in an empty history.
    """

    metas: tuple[Mapping[str, Any], ...] = ()
    operations: tuple[Operation, ...] = ()
    faults: tuple[FaultSpan, ...] = ()
    phases: tuple[PhaseSpan, ...] = ()
    wire: tuple[Wire, ...] = ()
    samples: tuple[Sample, ...] = ()
    finals: tuple[Final, ...] = ()
    start: int = 0
    end: int = 0

    @classmethod
    def load(cls, paths: Iterable[Path | str] | Path | str) -> History:
        """Read and merge histories.

        Args:
            paths: files, and folders whose `*.jsonl` files are meant.

        Raises:
            ConfigurationError: there is no such file, or a line is damaged; the text names file and line. Only the last line
                of a file may be torn: that is how a killed process leaves it.
        """
        from .reader import Reader, files  # late: they bring a History together

        reader = Reader()
        for path in files(paths):
            reader.read(path)
        return reader.history()

    @classmethod
    def from_lines(cls, lines: Iterable[Mapping[str, Any]]) -> History:
        """The same from lines in memory, as of one file: for tests.

        Raises:
            ConfigurationError: a line is damaged; the text names its number.
        """
        from .reader import Reader

        reader = Reader()
        reader.read_lines("history", lines)
        return reader.history()

    @cached_property
    def meta(self) -> Mapping[str, Any]:
        """What the run was made with; where files contradict each other, the earliest counts."""
        merged: dict[str, Any] = {}
        for meta in self.metas:
            merged = {**meta, **merged}
        return merged

    @cached_property
    def _by_name(self) -> Mapping[str, tuple[Operation, ...]]:
        found: dict[str, list[Operation]] = {}
        for operation in self.operations:
            found.setdefault(operation.name, []).append(operation)
        return {name: tuple(operations) for name, operations in found.items()}

    @cached_property
    def names(self) -> frozenset[str]:
        """The names of the operations that were asked."""
        return frozenset(self._by_name)

    def named(self, *names: str) -> tuple[Operation, ...]:
        """The operations of these names; of one name in the order of time."""
        return tuple(operation for name in names for operation in self._by_name.get(name, ()))

    def final(self, name: str) -> Final | None:
        """The last state of that name that was read back, or None."""
        return next((final for final in reversed(self.finals) if final.name == name), None)

    def phase(self, name: str) -> tuple[int, int] | None:
        """From when to when a phase took, nanoseconds; None if it never began."""
        for phase in self.phases:
            if phase.name == name:
                return phase.start, self.end if phase.end is None else phase.end
        return None

    def phase_at(self, t: int) -> str | None:
        """The phase that the moment `t` falls into, or None."""
        index = bisect_right(self.phases, t, key=lambda phase: phase.start) - 1
        if index < 0:
            return None
        phase = self.phases[index]
        return phase.name if phase.end is None or t <= phase.end else None

    @cached_property
    def last_heal(self) -> int | None:
        """When the last fault was healed, nanoseconds; None if there was none, or one never was."""
        ends = [fault.end for fault in self.faults]
        healed = [end for end in ends if end is not None]
        return max(healed) if healed and len(healed) == len(ends) else None

    def per_second(self, moments: Iterable[int], amounts: Iterable[float] | None = None) -> list[float]:
        """How much fell into each second of the run: a series to draw or to compare.

        Args:
            moments: nanoseconds; what lies outside of the run is left out.
            amounts: what each of them counts; 1 by default.

        Returns:
            One number for each second from `start` on; the last second may be a short one.
        """
        series = [0.0] * ((self.end - self.start) // NS + 1 if self.end > self.start else 0)
        start, end = self.start, self.end
        if amounts is None:
            for moment in moments:
                if start <= moment <= end:
                    series[(moment - start) // NS] += 1.0
        else:
            for moment, amount in zip(moments, amounts, strict=True):
                if start <= moment <= end:
                    series[(moment - start) // NS] += amount
        return series

    def second(self, t: int) -> int:
        """The second of the run that the moment `t` falls into, from 0."""
        return (t - self.start) // NS
