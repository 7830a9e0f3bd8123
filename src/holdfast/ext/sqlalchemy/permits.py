"""What an attempt tells the limit and the breaker of the server. Pure but for telling them.

Both are shared by all callers of a database, and a caller chooses its own deadline. So running out of time says something of the
server only if there was time: half of what the database itself gives an operation, or more. Otherwise anybody could shrink the
limit for all by asking for answers in no time (`holdfast.asgi.admission` does the same for requests).

A pool whose connections are all in use says nothing to the breaker: how their work ends does. In an overload it would open, and
refuse what can be done as well.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from ...outcome import FailureClass

if TYPE_CHECKING:
    from ...adaptive import Admission
    from ...breaker import Permit

__all__ = ["settle"]


def settle(
    admission: Admission | None,
    permit: Permit | None,
    failure_class: FailureClass | None,
    *,
    time_is_up: bool,
    had_time: bool,
    refused: bool,
    starved: bool,
    server_in_doubt: bool,
) -> None:
    """Tell both how an attempt ended: well also where the server took it and said no.

    Args:
        admission: the limit's, if there is one.
        permit: the breaker's, if it was taken.
        failure_class: of what failed; None where nothing has.
        time_is_up: the deadline has passed.
        had_time: the attempt had half of the time that the database gives, or more.
        refused: the server had no connection left for it.
        starved: no connection came free in the pool in time.
        server_in_doubt: the server may be gone, which is the failover gate's to find out, and to wait for.
    """
    if failure_class in (None, FailureClass.PERMANENT) and not starved:
        if admission is not None:
            admission.succeeded()
        if permit is not None:
            permit.succeeded()
        return
    if admission is not None:
        too_slow = (time_is_up or starved) and had_time
        if refused or too_slow or failure_class is FailureClass.OVERLOAD:
            admission.dropped()
        else:
            admission.ignored()
    if permit is None:
        return
    if starved or server_in_doubt or failure_class is None or not failure_class.counts_for_breaker:
        permit.ignored()
    else:
        permit.failed()
