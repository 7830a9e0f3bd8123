"""Time, chance, events and broken connections in the hands of a test: nothing sleeps, everything repeats.

    clock = ManualClock()
    events = RecordingHook()
    policy = retry(on=ConnectionError, clock=clock, random=seeded_random(7), events=events.stream)

    with fault_proxy("mysql+pymysql://app:secret@127.0.0.1/shop") as proxy:
        db = Database(proxy.url)
        proxy.cut_after_next_commit()

Whatever takes a `clock`, a `random` or `events` takes these. For pytest the proxy is a fixture as well:
`pytest_plugins = ["holdfast.testing.fixtures"]`.
"""

from __future__ import annotations

from ..clock import seeded_random
from .doubles import ManualClock, RecordingHook
from .proxies import DatabaseProxy, fault_proxy

__all__ = ["DatabaseProxy", "ManualClock", "RecordingHook", "fault_proxy", "seeded_random"]
