"""Workloads: what is saved in a drill, a file for each kind."""

from __future__ import annotations

from ...errors import ConfigurationError
from .append import Append
from .asked import AppSaves, HttpPosts
from .bank import Bank
from .counters import Counter, ReadModifyWrite
from .echo import Echo
from .inserts import SetOfRows, UniqueRows
from .replay import Replay
from .workload import PREFIX, Call, Identity, Refused, TableWorkload, Workload

__all__ = ["PREFIX", "WORKLOADS", "Call", "Identity", "Refused", "TableWorkload", "Workload", "workload_named"]

_KINDS: tuple[type[Workload], ...] = (
    Bank,
    SetOfRows,
    UniqueRows,
    Counter,
    ReadModifyWrite,
    Append,
    Replay,
    Echo,
    AppSaves,
    HttpPosts,
)

WORKLOADS: dict[str, type[Workload]] = {kind.name: kind for kind in _KINDS}
"""The workloads by name."""


def workload_named(name: str) -> Workload:
    """A fresh instance, for one client process.

    Raises:
        ConfigurationError: there is no workload of this name.
    """
    if name not in WORKLOADS:
        raise ConfigurationError(f"unknown workload {name!r}; choose {', '.join(WORKLOADS)}")
    return WORKLOADS[name]()
