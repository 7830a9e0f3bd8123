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
    try:
        task = asyncio.current_task()
    except RuntimeError:  # no event loop runs in this thread
        task = None
    return task or threading.current_thread()
