"""How far the end of a process has come, and what follows: pure."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import TYPE_CHECKING

from ..deadline import seconds

if TYPE_CHECKING:
    from datetime import timedelta

__all__ = ["ORDER", "DrainReport", "DrainSettings", "Phase", "Stage", "StepEnded", "StepOutcome", "due", "next_phase"]


class Phase(StrEnum):
    """How far the end has come."""

    SERVING = "serving"
    """Nothing was said of an end."""
    DRAINING = "draining"
    """Lame duck: not ready any more, but everything that comes is answered."""
    STOPPING = "stopping"
    """Nothing new is taken; listeners close."""
    FINISHING = "finishing"
    """What is under way may finish."""
    CANCELLING = "cancelling"
    """What took too long was cancelled, and may clean up."""
    FLUSHING = "flushing"
    """What is buffered is handed on."""
    CLOSING = "closing"
    """Engines and clients close."""
    DONE = "done"
    """Over."""


ORDER = {phase: number for number, phase in enumerate(Phase)}
"""Of phases: the larger the further."""


@dataclass(frozen=True, slots=True, kw_only=True)
class DrainSettings:
    """How long each part of the end may take. The defaults, a step or two included, fit Kubernetes' 30 seconds.

    Attributes:
        lame_duck: seconds (or `timedelta`) to go on answering after the process said that it is not ready. Longer than those who
            send traffic need to notice: their probe's period times its failure threshold, and a look at the endpoints.
            Default 5 s; 0: none.
        finish: seconds (or `timedelta`) for what is under way: at least the longest deadline of a request. Default 12 s.
        cancel: seconds (or `timedelta`) that what was cancelled may take to clean up. Default 2 s.
        step: seconds (or `timedelta`) that one step of flushing or closing may take unless it says otherwise, and the
            application's own shutdown. Default 2 s.

    Raises:
        ConfigurationError: a value is negative or no number of seconds.
    """

    lame_duck: float | timedelta = 5.0
    finish: float | timedelta = 12.0
    cancel: float | timedelta = 2.0
    step: float | timedelta = 2.0

    def __post_init__(self) -> None:
        for name in ("lame_duck", "finish", "cancel", "step"):
            seconds(getattr(self, name), name=name)


@dataclass(frozen=True, slots=True)
class Stage:
    """Where the drain stands: a phase, and since when (monotonic seconds)."""

    phase: Phase
    since: float


def due(stage: Stage, settings: DrainSettings) -> float | None:
    """The moment (monotonic seconds) at which time alone moves the drain on; None: something else must. Pure."""
    limits = {Phase.DRAINING: settings.lame_duck, Phase.FINISHING: settings.finish, Phase.CANCELLING: settings.cancel}
    limit = limits.get(stage.phase)
    return None if limit is None else stage.since + seconds(limit)


def next_phase(stage: Stage, settings: DrainSettings, *, now: float, in_flight: int, told: bool) -> Phase:
    """The phase that follows now; the stage's own if it lasts. Pure.

    Args:
        stage: where the drain stands.
        settings: the limits.
        now: monotonic seconds.
        in_flight: how much work is under way.
        told: what the phase is for has been done, or (draining) the lame duck is to be skipped.
    """
    moment = due(stage, settings)
    is_due = moment is not None and now >= moment
    match stage.phase:
        case Phase.SERVING if told:
            return Phase.DRAINING
        case Phase.DRAINING if told or is_due:
            return Phase.STOPPING
        case Phase.STOPPING if told:
            return Phase.FINISHING
        case Phase.FINISHING | Phase.CANCELLING if in_flight == 0:
            return Phase.FLUSHING
        case Phase.FINISHING if is_due:
            return Phase.CANCELLING
        case Phase.CANCELLING if is_due:
            return Phase.FLUSHING
        case Phase.FLUSHING if told:
            return Phase.CLOSING
        case Phase.CLOSING if told:
            return Phase.DONE
        case phase:
            return phase


class StepOutcome(StrEnum):
    """How a step ended."""

    DONE = "done"
    FAILED = "failed"
    EXCEEDED = "exceeded"
    """It was still at it at its limit: cancelled or, in a thread, left behind."""


@dataclass(frozen=True, slots=True)
class StepEnded:
    """One step that was taken."""

    name: str
    phase: Phase
    outcome: StepOutcome
    elapsed_s: float


@dataclass(frozen=True, slots=True)
class DrainReport:
    """What the end was like.

    Attributes:
        phases: each phase that is over, and how many seconds it took.
        cancelled: the work that exceeded `finish` and was cancelled, by name.
        left_behind: the work that was still under way after `cancel`, by name.
        steps: the steps of flushing and closing, in the order they were taken.
    """

    phases: tuple[tuple[Phase, float], ...]
    cancelled: tuple[str, ...]
    left_behind: tuple[str, ...]
    steps: tuple[StepEnded, ...]

    @property
    def is_clean(self) -> bool:
        """Whether nothing was cancelled or left behind and every step was done."""
        return not self.cancelled and not self.left_behind and all(s.outcome is StepOutcome.DONE for s in self.steps)
