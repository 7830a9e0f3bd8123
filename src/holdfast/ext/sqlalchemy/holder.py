"""Who holds a session or connection: the task where there is one, else the thread. Context variables alone cannot tell.

A task that a task starts inherits its context, and so does a thread that gets a copy of it; neither may use its session.
"""

from __future__ import annotations

import sys
import threading

__all__ = ["who_runs_here"]


def who_runs_here() -> object:
    """The calling task, or the calling thread where no task runs."""
    asyncio = sys.modules.get("asyncio")
    if asyncio is None:
        return threading.current_thread()
    # None where none runs: `get_running_loop` raises, which costs more than all the rest.
    loop = asyncio._get_running_loop()
    return (loop is not None and asyncio.current_task(loop)) or threading.current_thread()
