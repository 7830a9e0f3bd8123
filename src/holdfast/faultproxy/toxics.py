"""What can be done to a connection: values, in Toxiproxy's words (https://github.com/Shopify/toxiproxy#toxics).

Durations are seconds, sizes bytes, rates bytes a second. A toxic can be shared between proxies; it holds no state.
"""

from __future__ import annotations

import enum
import math
from dataclasses import dataclass

from ..errors import ConfigurationError

__all__ = [
    "Bandwidth",
    "Down",
    "Garbage",
    "Latency",
    "LimitData",
    "Queue",
    "ResetPeer",
    "Slicer",
    "SlowClose",
    "Stream",
    "Timeout",
    "Toxic",
    "name_of",
]


class Stream(enum.StrEnum):
    """A direction."""

    UPSTREAM = "upstream"
    """From the client to the server."""
    DOWNSTREAM = "downstream"
    """From the server to the client."""


def _at_least(least: float, **settings: float) -> None:
    for name, value in settings.items():
        if not (math.isfinite(value) and value >= least):
            raise ConfigurationError(f"{name} is a number of at least {least:g}, not {value!r}")


@dataclass(frozen=True, slots=True)
class ResetPeer:
    """The connection ends with a RST toward the client.

    Args:
        timeout: seconds until then (0 or more, default 0); meanwhile everything passes.
        ghost: leave the session on the server alive, as a network does that lost the client (default False).
    """

    timeout: float = 0.0
    ghost: bool = False

    def __post_init__(self) -> None:
        _at_least(0, timeout=self.timeout)


@dataclass(frozen=True, slots=True)
class Timeout:
    """A black hole: from now on nothing passes, and nobody is told.

    Args:
        timeout: seconds after which both ends are closed; 0 (the default) for never, that is until the toxic is removed.
        ghost: leave the session on the server alive meanwhile, also when the client leaves (default True, as real networks do);
            otherwise it is ended at once, or, while one direction still passes, when the client leaves.
    """

    timeout: float = 0.0
    ghost: bool = True

    def __post_init__(self) -> None:
        _at_least(0, timeout=self.timeout)


@dataclass(frozen=True, slots=True)
class Latency:
    """Bytes arrive later.

    Args:
        latency: seconds (0 or more).
        jitter: up to so many seconds more or less, drawn evenly (0 or more, default 0). Bytes never overtake each other.
    """

    latency: float
    jitter: float = 0.0

    def __post_init__(self) -> None:
        _at_least(0, latency=self.latency, jitter=self.jitter)


@dataclass(frozen=True, slots=True)
class Bandwidth:
    """Bytes arrive at a limited rate.

    Args:
        rate: bytes a second (1 or more).
    """

    rate: float

    def __post_init__(self) -> None:
        _at_least(1, rate=self.rate)


@dataclass(frozen=True, slots=True)
class Slicer:
    """Bytes arrive in small parts.

    Args:
        average_size: bytes of a part (1 or more).
        size_variation: up to so many bytes more or less, drawn evenly (0 or more, default 0).
        delay: seconds between two parts (0 or more, default 0).
    """

    average_size: int
    size_variation: int = 0
    delay: float = 0.0

    def __post_init__(self) -> None:
        _at_least(1, average_size=self.average_size)
        _at_least(0, size_variation=self.size_variation, delay=self.delay)


@dataclass(frozen=True, slots=True)
class LimitData:
    """The connection is closed when so many bytes have passed.

    Args:
        bytes: how many (0 or more), counted for each connection from when the toxic begins to act on it.
    """

    bytes: int

    def __post_init__(self) -> None:
        _at_least(0, bytes=self.bytes)


@dataclass(frozen=True, slots=True)
class SlowClose:
    """When one end closes, the other learns it later.

    Args:
        delay: seconds (0 or more).
    """

    delay: float

    def __post_init__(self) -> None:
        _at_least(0, delay=self.delay)


@dataclass(frozen=True, slots=True)
class Queue:
    """A server with too much to do: whatever is sent, on whichever connection, waits in one queue, and is served in turn.

    Nobody leaves the queue: who gives up was served in vain, as by a server that does not notice that its client has gone.

    Args:
        rate: statements a second (more than 0).
        patience: seconds that one may have to wait (0 or more); the connection of one that would have to wait longer is reset.
    """

    rate: float
    patience: float = 1.0

    def __post_init__(self) -> None:
        _at_least(0, rate=self.rate, patience=self.patience)
        if not self.rate:
            raise ConfigurationError("rate is more than 0 statements a second: use Timeout() where nothing passes")


@dataclass(frozen=True, slots=True)
class Garbage:
    """Nonsense arrives in between.

    Args:
        size: bytes of it (1 or more, default 64), drawn.
    """

    size: int = 64

    def __post_init__(self) -> None:
        _at_least(1, size=self.size)


@dataclass(frozen=True, slots=True)
class Down:
    """Nobody listens: open connections are reset, new ones refused, until the toxic is removed."""


Toxic = ResetPeer | Timeout | Latency | Bandwidth | Slicer | LimitData | SlowClose | Queue | Garbage | Down
"""Any of them."""

_NAMES: dict[type, str] = {
    ResetPeer: "reset_peer",
    Timeout: "timeout",
    Latency: "latency",
    Bandwidth: "bandwidth",
    Slicer: "slicer",
    LimitData: "limit_data",
    SlowClose: "slow_close",
    Queue: "queue",
    Garbage: "garbage",
    Down: "down",
}


def name_of(toxic: Toxic) -> str:
    """Its name in events: Toxiproxy's word where it has one."""
    return _NAMES[type(toxic)]
