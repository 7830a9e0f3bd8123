"""Where everything of the time line stands: from seconds, faults and phases to positions in a drawing. Pure.

From the top down, all over one axis of time: the phases by name; a lane for each kind of fault; goodput; what was not
acknowledged, where there was any; latency on a logarithmic axis. Faults are drawn through all panels, so that the eye finds what
they did. The page's template turns these positions into SVG; what they look like is said in its style sheet.
"""

from __future__ import annotations

import statistics
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import groupby

from .content import Run, Second, Span
from .scales import Linear, Logarithmic, clock_label, decades, nice_ceiling, nice_ticks, time_ticks
from .wording import count, duration, fault_title, rate

__all__ = [
    "Axes",
    "Curve",
    "Entry",
    "Label",
    "Lane",
    "Mark",
    "Panel",
    "Timeline",
    "axes",
    "merged",
    "passing",
    "stretched",
    "timeline",
]

WIDTH = 1040.0
LEFT = 76.0
RIGHT = 1018.0
_PHASES_HEIGHT = 26.0
_LANE_HEIGHT = 20.0
_PANEL_TITLE = 40.0
_GOODPUT_HEIGHT = 170.0
_TROUBLE_HEIGHT = 64.0
_LATENCY_HEIGHT = 150.0
_AXIS_HEIGHT = 30.0
_LETTER = 7.2  # the mean width of a letter at 12 px; a drawing cannot measure text
_SIGN = 24.0
_GAP = 18.0
_POINTS_MAX = 480  # about two pixels of a line each; more is noise
_LASTING = 0.9
_BAR_MIN = 1.5  # a fault of a millisecond is still seen


@dataclass(frozen=True, slots=True)
class Label:
    """A tick: its position along its axis, and what stands beside it."""

    at: float
    text: str


@dataclass(frozen=True, slots=True)
class Curve:
    """A line or an area: `kind` names its style, `path` is SVG path data."""

    kind: str
    path: str


@dataclass(frozen=True, slots=True)
class Entry:
    """What one of the lines is: its style, its name, and where its sign stands."""

    kind: str
    name: str
    x: float


@dataclass(frozen=True, slots=True)
class Mark:
    """A stretch of the axis of time: a fault or a phase; `title` is what a pointer resting on it is told."""

    x: float
    width: float
    name: str
    title: str


@dataclass(frozen=True, slots=True)
class Lane:
    """The faults of one name, in a row of their own."""

    name: str
    y: float
    marks: tuple[Mark, ...]


@dataclass(frozen=True, slots=True)
class Panel:
    """One drawing over the axis of time, from `top` to `bottom`; `level` is where a dashed line is drawn across it, or None."""

    kind: str
    title: str
    top: float
    bottom: float
    ticks: tuple[Label, ...]
    curves: tuple[Curve, ...]
    legend: tuple[Entry, ...]
    level: float | None = None


@dataclass(frozen=True, slots=True)
class Timeline:
    """A whole drawing; `description` says in words what it shows, for whoever does not see it."""

    width: float
    height: float
    left: float
    right: float
    panels_top: float
    bottom: float
    phases: tuple[Mark, ...]
    lanes: tuple[Lane, ...]
    bands: tuple[Mark, ...]
    panels: tuple[Panel, ...]
    ticks: tuple[Label, ...]
    description: str


@dataclass(frozen=True, slots=True)
class Axes:
    """The ends of the axes; runs that are to be compared share them."""

    length_s: float
    goodput_max: float
    trouble_max: float
    latency_min_s: float
    latency_max_s: float


def stretched(seconds: Sequence[Second], points_max: int = _POINTS_MAX) -> tuple[Second, ...]:
    """Put neighbouring seconds together until at most `points_max` are left.

    Rates become means. Of the latencies the median of the p50 and the highest p99 stay: a stretch must not hide its worst second.
    """
    length = -(-len(seconds) // points_max)
    if length <= 1:
        return tuple(seconds)
    return tuple(_together(seconds[at : at + length]) for at in range(0, len(seconds), length))


def _together(seconds: Sequence[Second]) -> Second:
    p50 = [second.p50_s for second in seconds if second.p50_s is not None]
    p99 = [second.p99_s for second in seconds if second.p99_s is not None]
    return Second(
        start_s=seconds[0].start_s,
        length_s=sum(second.length_s for second in seconds),
        ok=statistics.fmean(second.ok for second in seconds),
        failed=statistics.fmean(second.failed for second in seconds),
        unknown=statistics.fmean(second.unknown for second in seconds),
        p50_s=statistics.median(p50) if p50 else None,
        p99_s=max(p99) if p99 else None,
    )


def axes(runs: Iterable[Run]) -> Axes:
    """Axes that fit all of `runs`."""
    runs = tuple(runs)
    drawn = [second for run in runs for second in stretched(run.seconds)]
    ends = [second.start_s + second.length_s for second in drawn]
    ends += [span.end_s for run in runs for span in (*run.faults, *run.phases)]
    offered = [run.offered_per_s for run in runs if run.offered_per_s is not None]
    latencies = [value for second in drawn for value in (second.p50_s, second.p99_s) if value]
    latencies += [run.deadline_s for run in runs if run.deadline_s]
    ticks = decades(min(latencies, default=0.001), max(latencies, default=1.0))
    return Axes(
        length_s=max([1.0, *ends]),
        goodput_max=nice_ceiling(max([1.0, *(second.ok for second in drawn), *offered])),
        trouble_max=nice_ceiling(max([0.0, *(second.failed + second.unknown for second in drawn)]), count=2),
        latency_min_s=ticks[0],
        latency_max_s=ticks[-1],
    )


def timeline(run: Run, shared: Axes) -> Timeline:
    """Lay out the time line of `run` on axes that `axes` found."""
    seconds = stretched(run.seconds)
    x = Linear(0.0, shared.length_s, LEFT, RIGHT)
    names = list(dict.fromkeys(span.name for span in run.faults))
    lanes_top = _PHASES_HEIGHT + 6
    lanes = tuple(
        Lane(name, lanes_top + row * _LANE_HEIGHT, _marks((s for s in run.faults if s.name == name), x))
        for row, name in enumerate(names)
    )
    top = panels_top = lanes_top + len(names) * _LANE_HEIGHT
    panels = []
    for draw in (_goodput, _trouble, _latency):
        panel = draw(run, seconds, shared, x, top + _PANEL_TITLE)
        if panel is not None:
            panels.append(panel)
            top = panel.bottom
    return Timeline(
        width=WIDTH,
        height=top + _AXIS_HEIGHT,
        left=LEFT,
        right=RIGHT,
        panels_top=panels_top,
        bottom=top,
        phases=_marks(run.phases, x),
        lanes=lanes,
        bands=_marks((*merged(run.faults), *passing(run.faults)), x),
        panels=tuple(panels),
        ticks=tuple(Label(round(x(moment), 1), clock_label(moment)) for moment in time_ticks(shared.length_s)),
        description=_description(run, names),
    )


def merged(spans: Iterable[Span]) -> tuple[Span, ...]:
    """`spans` without their overlaps, so that a translucent band is as dark where two faults met as elsewhere."""
    found: list[Span] = []
    for span in sorted(spans, key=lambda span: span.start_s):
        if found and span.start_s <= found[-1].end_s:
            last = found.pop()
            name = last.name if span.name in last.name.split(", ") else f"{last.name}, {span.name}"
            found.append(Span(name, last.start_s, max(last.end_s, span.end_s)))
        else:
            found.append(span)
    return tuple(found)


def passing(spans: Iterable[Span]) -> tuple[Span, ...]:
    """The faults that came and went while others lasted: a second shade, so that they are seen within those.

    Lasting is what covers nine tenths of the time from the first start to the last end. None where nothing lasts: then the first
    shade shows them.
    """
    spans = tuple(spans)
    if not spans:
        return ()
    extent_s = max(span.end_s for span in spans) - min(span.start_s for span in spans)
    short = [span for span in spans if span.end_s - span.start_s < _LASTING * extent_s]
    return merged(short) if len(short) < len(spans) else ()


def _marks(spans: Iterable[Span], x: Linear) -> tuple[Mark, ...]:
    return tuple(
        Mark(round(x(s.start_s), 1), round(max(x(s.end_s) - x(s.start_s), _BAR_MIN), 1), s.name, fault_title(s))
        for s in spans
    )


def _goodput(run: Run, seconds: Sequence[Second], shared: Axes, x: Linear, top: float) -> Panel:
    bottom = top + _GOODPUT_HEIGHT
    y = Linear(0.0, shared.goodput_max, bottom, top)
    steps = [(x(s.start_s), x(s.start_s + s.length_s), y(s.ok)) for s in seconds]
    curves = (Curve("goodput-area", _area(steps, bottom)), Curve("goodput", _steps(steps)))
    offered = run.offered_per_s
    told = [("goodput", "acknowledged")]
    if offered is not None:
        told.append(("level", f"offered: {rate(offered)}"))
    return Panel(
        kind="goodput",
        title="Goodput, operations per second",
        top=top,
        bottom=bottom,
        ticks=tuple(Label(round(y(value), 1), count(value)) for value in nice_ticks(shared.goodput_max)),
        curves=curves,
        legend=_legend(told),
        level=None if offered is None else round(y(offered), 1),
    )


def _trouble(run: Run, seconds: Sequence[Second], shared: Axes, x: Linear, top: float) -> Panel | None:
    if not any(second.failed or second.unknown for second in run.seconds):
        return None
    bottom = top + _TROUBLE_HEIGHT
    y = Linear(0.0, shared.trouble_max, bottom, top)
    both = [(x(s.start_s), x(s.start_s + s.length_s), y(s.failed + s.unknown)) for s in seconds]
    unknown = [(x(s.start_s), x(s.start_s + s.length_s), y(s.unknown)) for s in seconds]
    return Panel(
        kind="trouble",
        title="Not acknowledged, operations per second",
        top=top,
        bottom=bottom,
        ticks=tuple(Label(round(y(value), 1), count(value)) for value in nice_ticks(shared.trouble_max, count=2)),
        curves=(
            Curve("failed", _area(both, bottom)),
            Curve("unknown", _area(unknown, bottom)),
        ),
        legend=_legend([("failed", "told not done"), ("unknown", "told unknown")]),
    )


def _latency(run: Run, seconds: Sequence[Second], shared: Axes, x: Linear, top: float) -> Panel:
    bottom = top + _LATENCY_HEIGHT
    y = Logarithmic(shared.latency_min_s, shared.latency_max_s, bottom, top)
    p50, p99, between = [], [], []
    for known, stretch in groupby(seconds, key=lambda s: s.p50_s is not None and s.p99_s is not None):
        if known:
            steps = [(x(s.start_s), x(s.start_s + s.length_s), y(s.p50_s or 0), y(s.p99_s or 0)) for s in stretch]
            lower = [(start, end, low) for start, end, low, _ in steps]
            upper = [(start, end, high) for start, end, _, high in steps]
            p50.append(_steps(lower))
            p99.append(_steps(upper))
            back = [f"L{end:.1f} {low:.1f}L{start:.1f} {low:.1f}" for start, end, low in reversed(lower)]
            between.append(f"{_steps(upper)}{''.join(back)}Z")
    deadline = run.deadline_s
    told = [("p99", "p99"), ("p50", "p50")]
    if deadline is not None:
        told.append(("level", f"deadline: {duration(deadline)}"))
    return Panel(
        kind="latency",
        title="Latency of acknowledged operations, from their intended start",
        top=top,
        bottom=bottom,
        ticks=tuple(Label(round(y(v), 1), duration(v)) for v in decades(shared.latency_min_s, shared.latency_max_s)),
        curves=(
            Curve("latency-area", "".join(between)),
            Curve("p99", "".join(p99)),
            Curve("p50", "".join(p50)),
        ),
        legend=_legend(told),
        level=None if deadline is None else round(y(deadline), 1),
    )


def _legend(told: Sequence[tuple[str, str]]) -> tuple[Entry, ...]:
    """The names of the lines in a row that ends at the right edge."""
    entries: list[Entry] = []
    x = RIGHT
    for kind, name in reversed(told):
        x -= _LETTER * len(name) + _SIGN
        entries.append(Entry(kind, name, round(x, 1)))
        x -= _GAP
    return tuple(reversed(entries))


def _steps(steps: Sequence[tuple[float, float, float]]) -> str:
    """A line through (start, end, height) steps: a rate holds for its whole second, so nothing is drawn slanted."""
    parts: list[str] = []
    height: float | None = None
    for start, end, y in steps:
        if height is None:
            parts.append(f"M{start:.1f} {y:.1f}")
        elif y != height:
            parts.append(f"V{y:.1f}")
        parts.append(f"H{end:.1f}")
        height = y
    return "".join(parts)


def _area(steps: Sequence[tuple[float, float, float]], bottom: float) -> str:
    """The area from a line of steps down to `bottom`."""
    if not steps:
        return ""
    return f"{_steps(steps)}V{bottom:.1f}H{steps[0][0]:.1f}Z"


def _description(run: Run, names: Sequence[str]) -> str:
    seconds = run.seconds
    faults = f"{len(run.faults)} faults ({', '.join(names)})" if names else "no fault"
    if not seconds:
        return f"{run.name}: nothing was answered; {faults}."
    best, worst = max(seconds, key=lambda s: s.ok), min(seconds, key=lambda s: s.ok)
    slowest = max((s.p99_s for s in seconds if s.p99_s is not None), default=None)
    latency = "" if slowest is None else f" The highest p99 of a second was {duration(slowest)}."
    return (
        f"{run.name}: goodput between {count(worst.ok)} and {count(best.ok)} operations per second over "
        f"{clock_label(seconds[-1].start_s + seconds[-1].length_s)} minutes, with {faults}.{latency}"
    )
