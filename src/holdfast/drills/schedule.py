"""When which fault begins and ends, and whom it meets: drawn from a seed before the drill, so that it can be drawn again. Pure.

    plan(seed=7, faults=["kill-node", "partition"], seconds=120, spacing_s=GALERA_SPACING_S, nodes=3)

    |-- baseline --|== fault ==|-- quiet --|== fault ==|-- quiet --| ... |-- healed --|

One fault at a time, on and off again (Jepsen's flip-flop), each beginning a little late by chance, so that nothing falls into
step with it. Every fault comes once before any comes again. In a cluster it meets one node, a majority or all, and they are
healed in another order than they were harmed (FoundationDB's swizzle: Zhou et al., "FoundationDB", SIGMOD 2021, section 4).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import TypeVar

from ..clock import Random, seeded_random
from ..errors import ConfigurationError

__all__ = ["GALERA_SPACING_S", "SPACING_S", "Planned", "Schedule", "Scope", "plan"]

T = TypeVar("T")

SPACING_S = 10.0
"""From the beginning of one fault to that of the next, on average."""
GALERA_SPACING_S = 20.0
"""The same for a cluster, whose survivors stand still for 6 s and whose nodes need 5 to 10 s to come back."""

_BASELINE_MAX_S, _BASELINE_SHARE = 6.0, 0.15
_HEALED_MAX_S, _HEALED_SHARE = 15.0, 0.3
_ON_SHARE, _LATE_MAX_SHARE = 0.5, 0.25  # of the spacing; the rest is quiet


class Scope(StrEnum):
    """How much of a cluster a fault meets."""

    ONE = "one"
    MAJORITY = "majority"
    ALL = "all"

    def size(self, nodes: int) -> int:
        """How many of `nodes` that is."""
        return {Scope.ONE: 1, Scope.MAJORITY: nodes // 2 + 1, Scope.ALL: nodes}[self]


@dataclass(frozen=True, slots=True)
class Planned:
    """One fault to come.

    Attributes:
        fault: its name.
        start_s, duration_s: when it begins, in seconds from the beginning of the drill, and how long it lasts.
        scope: how much of the cluster it meets.
        harm: the nodes that it meets, from 0, in the order in which they are harmed.
        heal: the same nodes in the order in which they are healed.
    """

    fault: str
    start_s: float
    duration_s: float
    scope: Scope
    harm: tuple[int, ...]
    heal: tuple[int, ...]

    @property
    def end_s(self) -> float:
        """When it is healed, in seconds from the beginning of the drill."""
        return self.start_s + self.duration_s


@dataclass(frozen=True, slots=True)
class Schedule:
    """All faults of one drill.

    Attributes:
        faults: in the order of time; no two at once.
        baseline_s: how long nothing goes wrong at the beginning.
        healed_from_s: from when on nothing goes wrong any more, in seconds from the beginning.
        end_s: when the drill ends.
    """

    faults: tuple[Planned, ...]
    baseline_s: float
    healed_from_s: float
    end_s: float


def plan(
    seed: int,
    faults: Sequence[str],
    seconds: float,
    *,
    spacing_s: float = SPACING_S,
    nodes: int = 1,
    scopes: Sequence[Scope] = tuple(Scope),
    baseline_s: float | None = None,
    healed_s: float | None = None,
) -> Schedule:
    """Draw a schedule; the same arguments draw the same one.

    Args:
        seed: of everything drawn.
        faults: their names; empty draws a schedule without any.
        seconds: how long the drill is, from beginning to end; above 0.
        spacing_s: seconds from one fault to the next, above 0; where less time is left for faults, that.
        nodes: how many servers can be met; 1 or more.
        scopes: how much of them a fault may meet; at least one. With one node they are all the same.
        baseline_s: quiet seconds at the beginning; by default 15 % of the drill, 6 s at most.
        healed_s: quiet seconds at the end; by default 30 % of the drill, 15 s at most.

    Raises:
        ConfigurationError: an argument is out of its bounds, or leaves no time for faults.
    """
    baseline_s = min(_BASELINE_MAX_S, seconds * _BASELINE_SHARE) if baseline_s is None else baseline_s
    healed_s = min(_HEALED_MAX_S, seconds * _HEALED_SHARE) if healed_s is None else healed_s
    time_s = seconds - baseline_s - healed_s
    if not (0 < seconds < float("inf") and spacing_s > 0 and baseline_s >= 0 and healed_s >= 0 and time_s > 0):
        raise ConfigurationError(
            f"no time is left for faults: {seconds:g} s in all, {baseline_s:g} s before them, {healed_s:g} s after, "
            f"one every {spacing_s:g} s"
        )
    if nodes < 1 or not scopes:
        raise ConfigurationError(f"a fault must be able to meet somebody: {nodes} nodes, {len(scopes)} scopes")
    random = seeded_random(seed)
    spacing_s = min(spacing_s, time_s)
    count = int(time_s / spacing_s + 1e-9) if faults else 0
    names = _in_rounds(random, faults)
    planned = []
    for turn in range(count):
        late_s = random() * _LATE_MAX_SHARE * spacing_s
        scope = scopes[int(random() * len(scopes))]
        harm = _shuffled(random, range(nodes))[: scope.size(nodes)]
        heal = _shuffled(random, harm)
        start_s = baseline_s + turn * spacing_s + late_s
        planned.append(Planned(next(names), start_s, _ON_SHARE * spacing_s, scope, harm, heal))
    return Schedule(tuple(planned), baseline_s, seconds - healed_s, seconds)


def _in_rounds(random: Random, names: Sequence[str]) -> Iterator[str]:
    """All names in a drawn order, then all of them in another, without end."""
    while True:
        yield from _shuffled(random, names)


def _shuffled(random: Random, items: Sequence[T]) -> tuple[T, ...]:
    drawn = [random() for _ in items]
    return tuple(items[place] for place in sorted(range(len(items)), key=drawn.__getitem__))
