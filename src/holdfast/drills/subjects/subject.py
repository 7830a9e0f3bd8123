"""What a subject is: a way to save. It does one operation and says honestly what its caller would be told."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

from ...adaptive import Mode
from ...deadline import current_deadline
from ...dialects import classify
from ...outcome import Stage
from ..history import Answer
from ..workloads import Refused

if TYPE_CHECKING:
    from sqlalchemy.engine import Engine

    from ...outcome import Failure
    from ..workloads import Call

__all__ = ["Remote", "Reply", "Subject", "Terms", "time_left_s", "told"]


@dataclass(frozen=True, slots=True)
class Terms:
    """Under which conditions a subject works.

    Attributes:
        deadline_s: seconds an operation may take.
        connections: how many connections it may have open at once.
        flavour: `mysql`, `mariadb`, `postgresql` or `sqlite`, as the server itself says.
        limit: whether an adaptive limit turns operations away: `off`, `dark` or `on`; anything but `off` only where the subject
            `has_limit`.
    """

    deadline_s: float = 10.0
    connections: int = 16
    flavour: str = "sqlite"
    limit: Mode = "off"


@dataclass(frozen=True, slots=True)
class Reply:
    """What the caller of an operation was told, and how it went.

    Attributes:
        answer: done, definitely not done, or unknown.
        value: what was returned or observed.
        attempts: how often it was tried.
        failure: the last failure on the way, also where the operation succeeded in the end.
        error: the name of the exception's class that the caller got, or None.
    """

    answer: Answer
    value: Mapping[str, Any] | None = None
    attempts: int = 1
    failure: Failure | None = None
    error: str | None = None

    def how(self) -> dict[str, Any]:
        """The keywords of `OpenOperation.ok` and its sisters."""
        failure = self.failure
        return {
            "attempts": self.attempts,
            "error": self.error,
            "stage": failure.stage.value if failure else None,
            "code": failure.code if failure else None,
            "failure_class": failure.failure_class.value if failure else None,
        }


def time_left_s(most_s: float) -> float:
    """How long the operation under way may still take: until the deadline that it came with, `most_s` where it has none."""
    deadline = current_deadline()
    return most_s if deadline is None else min(most_s, max(0.0, deadline.remaining_s()))


def told(answer: Answer, error: BaseException, stage: Stage, *, attempts: int = 1, flavour: str | None = None) -> Reply:
    """The reply to a caller who got `error`. What the workload itself refuses is no failure."""
    if isinstance(error, Refused):
        return Reply(answer, attempts=attempts, error=type(error).__name__)
    failure = classify(error, stage=stage, flavour=flavour)
    return Reply(answer, attempts=attempts, failure=failure, error=type(error).__name__)


class Subject(ABC):
    """A way to save, in one client process. Serves the tasks of one event loop.

    Attributes:
        name: what the command line calls it.
        keyed: the same key again is the same operation to it, so an operation may be asked for again.
        has_limit: whether it can be told to turn operations away before they queue (`Terms.limit`).
        side_connections: how many connections a process of it may open beside its pool.
    """

    name: ClassVar[str]
    keyed: ClassVar[bool] = False
    has_limit: ClassVar[bool] = False
    side_connections: ClassVar[int] = 0

    @abstractmethod
    async def perform(self, call: Call) -> Reply:
        """Do one operation. What goes wrong is in the reply; only a cancellation is raised."""

    @abstractmethod
    async def close(self) -> None:
        """Give everything back."""

    @property
    def engine(self) -> Engine | None:
        """The engine below, to inject faults into; None where there is none in this process."""
        return None

    @property
    def checked_out(self) -> int:
        """How many connections are in use now."""
        pool = self.engine.pool if self.engine is not None else None
        counted = getattr(pool, "checkedout", None)
        return counted() if counted is not None else 0


class Remote(Subject):
    """A subject that has tables of its own, which the drill does not know."""

    async def set_up(self) -> dict[str, Any]:
        """Make what it begins with; what the client processes must know of it, as JSON can hold it."""
        return {}

    def begin(self, known: Mapping[str, Any]) -> None:
        """In a client process: what `set_up` has told."""

    @abstractmethod
    async def final(self) -> dict[str, Any]:
        """The state there is now."""
