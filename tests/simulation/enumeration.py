"""Every schedule there is: after each fault, every fault at every step that followed it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field

from .checks import complaints
from .faults import FAULTS, Fault
from .scenario import Case, Simulator, Story

__all__ = ["Findings", "enumerate_cases", "explore"]

SHOWN_MAX = 5


@dataclass(slots=True)
class Findings:
    """What an exploration saw.

    Attributes:
        cases: how many were played.
        hit: how often each (step, fault) was met.
        red: (case, check, complaint) for each complaint.
    """

    cases: int = 0
    hit: Counter[tuple[str, str]] = field(default_factory=Counter)
    red: list[tuple[Case, str, str]] = field(default_factory=list)

    def __str__(self) -> str:
        lines = [f"{len(self.red)} complaints in {self.cases} cases"]
        for case, check, complaint in self.red[:SHOWN_MAX]:
            lines.append(
                f"SHELL={case.shell} PROTECTION={' '.join((case.protection, *sorted(case.options)))} "
                f"SCHEDULE={case.schedule}\n  {check}: {complaint}\n  replay: python -m tests.simulation '{case}'"
            )
        return "\n".join(lines)


def enumerate_cases(setting: Case, simulator: Simulator, faults_max: int = 2) -> Iterator[Story]:
    """Play every case of `setting` with at most `faults_max` faults, fewest first in each branch."""
    # Each fault is placed behind the one before it, so no schedule comes twice.
    waiting: list[tuple[Case, int]] = [(setting, 0)]
    while waiting:
        case, first_free = waiting.pop()
        story = simulator.play(case)
        yield story
        if len(case.schedule) == faults_max:
            continue
        waiting.extend(
            (case.with_schedule(case.schedule.then(step, which, fault)), place + 1)
            for place, (step, which) in enumerate(story.progress.calls[first_free:], first_free)
            for fault in FAULTS[step]
        )


def explore(setting: str, simulator: Simulator, *, faults_max: int = 2) -> Findings:
    """Play and check every case of `setting` (`sync keyed broke`, say)."""
    findings = Findings()
    for story in enumerate_cases(Case.parse(setting), simulator, faults_max):
        findings.cases += 1
        entries: tuple[tuple[str, str, Fault], ...] = story.case.schedule.entries
        if story.progress.hit != [fault for _, _, fault in entries]:
            findings.red.append((story.case, "reproducible", "a fault was not met at the place where it was due"))
        findings.hit.update((step, fault.name) for step, _, fault in entries)
        findings.red.extend((story.case, check, complaint) for check, complaint in complaints(story))
    return findings
