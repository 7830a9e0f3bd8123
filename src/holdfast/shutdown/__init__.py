"""The end of a process, in order: told, waited for, cancelled only at the limit, flushed, closed.

    SERVING ─begin()─► DRAINING ─lame duck over─► STOPPING ─stopped()─► FINISHING ─all done──────────────┐
                                                                           │ limit                        ▼
                                                                           └──► CANCELLING ──────────► FLUSHING
                                                                                  all done, or limit      │
                                                                    DONE ◄── CLOSING ◄────────────────────┘

    drain = Drain()
    drain.on_drain("consumer", consumer.stop_fetching)      # at once; may take as long as the work under way
    drain.on_flush("outbox", relay.flush)                   # when no work is under way any more
    drain.on_close("database", db.close)                    # last; the last one registered first

    while not drain.wait(1.0):                              # a worker in threads; `end_on_signals(drain)` has it begin
        with drain.work("job"):
            ...
    drain.run()

    async for event in until_draining(feed):                # an answer that would never end, ends
        ...

While draining a process still answers everything: whoever sends it traffic needs time to notice (`/readyz` says not ready, and
answers carry `Connection: close`). Then it takes nothing new, lets what is under way finish, cancels what takes too long and
waits for that, too. No step can hold the process up: each has a limit, and what exceeded it stands in the report.

In a process with several applications each has a `Part` of the drain, which ends with it, alone where others go on.

What follows what is one pure function (`next_phase`); two shells follow it, for threads and for asyncio. A `Drain` may be shared
between threads and tasks; its shells belong to one caller at a time, and every call is idempotent.

Sources: the order is that of Go's `http.Server.Shutdown` behind Google's "lame duck" (Site Reliability Engineering, chapter 20).
"""

from __future__ import annotations

from .drain import Drain, StepFunction, Work
from .handlers import DRAIN, current_drain, draining, end_on_signals, is_draining, until_draining, use_drain
from .part import Part
from .phases import DrainReport, DrainSettings, Phase, Stage, StepEnded, StepOutcome, due, next_phase

__all__ = [
    "DRAIN",
    "Drain",
    "DrainReport",
    "DrainSettings",
    "Part",
    "Phase",
    "Stage",
    "StepEnded",
    "StepFunction",
    "StepOutcome",
    "Work",
    "current_drain",
    "draining",
    "due",
    "end_on_signals",
    "is_draining",
    "next_phase",
    "until_draining",
    "use_drain",
]
