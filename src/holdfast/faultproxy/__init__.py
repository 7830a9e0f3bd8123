"""A TCP proxy that reads along what a database's clients and servers say, and lets connections fail at a chosen moment.

    with FaultProxy(("127.0.0.1", 3306), "mysql") as proxy:
        ...                                     # connect to proxy.host, proxy.port
        proxy.cut_after_next_commit()           # COMMIT is carried out, the answer never arrives
        proxy.add(Latency(0.05, jitter=0.02), stream=Stream.DOWNSTREAM)
        proxy.add(Timeout(), Phase.FORWARDED, on=Kind.COMMIT, toxicity=0.2)
        proxy.heal()

What can fail stands in `toxics.py`, when in `plan.py`, what is told about it in `journal.py`; `link.py` is one connection,
`wire/` the protocols. The words are Toxiproxy's (https://github.com/Shopify/toxiproxy), which knows no protocols, so no phases.
"""

from __future__ import annotations

from .journal import Counters
from .plan import Handle, Phase
from .proxy import FaultProxy
from .toxics import (
    Bandwidth,
    Down,
    Garbage,
    Latency,
    LimitData,
    Queue,
    ResetPeer,
    Slicer,
    SlowClose,
    Stream,
    Timeout,
    Toxic,
)
from .wire.conversation import Kind, Statement

__all__ = [
    "Bandwidth",
    "Counters",
    "Down",
    "FaultProxy",
    "Garbage",
    "Handle",
    "Kind",
    "Latency",
    "LimitData",
    "Phase",
    "Queue",
    "ResetPeer",
    "Slicer",
    "SlowClose",
    "Statement",
    "Stream",
    "Timeout",
    "Toxic",
]
