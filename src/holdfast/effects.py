"""Whether something stands that was done for the request under way: noted by who did it, read by who answers for the whole.

    note_applied()                      # a unit of work was committed, another service took a request

One operation's error speaks of that operation. Who answers a request with it must know what the request had done before.
"""

from __future__ import annotations

from contextvars import ContextVar

__all__ = ["CURRENT", "Effects", "note_applied"]


class Effects:
    """What stands of the work for one request, as far as Holdfast did it. Shared by the tasks and threads of the request.

    Attributes:
        applied: something was committed, or may have been; it stays, whatever comes next.
    """

    __slots__ = ("applied",)

    def __init__(self) -> None:
        self.applied = False


CURRENT: ContextVar[Effects | None] = ContextVar("holdfast_request", default=None)
"""What is noted for the request this code runs for; None outside of one. `holdfast.asgi.context` sets it."""


def note_applied() -> None:
    """Note that something stands from here on; outside of a request this does nothing."""
    effects = CURRENT.get()
    if effects is not None:
        effects.applied = True
