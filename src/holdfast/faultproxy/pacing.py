"""When bytes leave: latency, bandwidth and slices as arithmetic. Pure; the time and the draws are handed in."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import NamedTuple

from ..clock import Random
from .toxics import Bandwidth, Latency, Queue, Slicer, Toxic

__all__ = ["Parcel", "Turns", "delay_of", "paced"]

_PARCELS_A_SECOND = 50
"""How finely a limited rate is dealt out: smooth enough to look steady, coarse enough for the event loop."""


class Parcel(NamedTuple):
    """Bytes, and the moment (in the loop's seconds) from which they may leave."""

    due_s: float
    data: bytes


class Turns:
    """Whose turn it is in a `Queue`: one for all connections of a proxy."""

    __slots__ = ("_free_s",)

    def __init__(self) -> None:
        self._free_s = float("-inf")

    def take(self, toxic: Queue, now_s: float) -> float | None:
        """Queue up: the seconds until one is served, or None where there is no room in the queue."""
        begins_s = max(now_s, self._free_s)
        if begins_s - now_s > toxic.patience:
            return None
        self._free_s = begins_s + 1 / toxic.rate
        return self._free_s - now_s


def delay_of(toxic: Latency, draw: Random) -> float:
    """How much later, in seconds, by this draw."""
    return max(0.0, toxic.latency + (2 * draw() - 1) * toxic.jitter if toxic.jitter else toxic.latency)


def paced(data: bytes, now_s: float, earliest_s: float, toxics: Sequence[Toxic], draw: Random) -> Iterator[Parcel]:
    """Cut `data` and say when each part may leave; parts keep their order.

    Args:
        data: the bytes.
        now_s: the present moment.
        earliest_s: when the parts before these are due: none of these is earlier.
        toxics: what acts on this direction. Latencies add up, the slowest bandwidth holds; others are not about pace.
        draw: for jitter and variation.
    """
    due_s = now_s
    rate = min((toxic.rate for toxic in toxics if isinstance(toxic, Bandwidth)), default=0.0)
    slicers = [toxic for toxic in toxics if isinstance(toxic, Slicer)]
    for toxic in toxics:
        if isinstance(toxic, Latency):
            due_s += delay_of(toxic, draw)
    due_s = max(due_s, earliest_s)
    for number, part in enumerate(_sliced(data, slicers, rate, draw)):
        if number:
            due_s += max((slicer.delay for slicer in slicers), default=0.0)
        if rate:
            due_s += len(part) / rate
        yield Parcel(due_s, part)


def _sliced(data: bytes, slicers: Sequence[Slicer], rate: float, draw: Random) -> Iterator[bytes]:
    at = 0
    while at < len(data):
        size = max(1, int(rate / _PARCELS_A_SECOND)) if rate else len(data)
        for slicer in slicers:
            varied = slicer.average_size + round((2 * draw() - 1) * slicer.size_variation)
            size = min(size, max(1, varied))
        yield data[at : at + size]
        at += size
