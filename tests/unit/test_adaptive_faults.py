"""What others do wrong costs the adaptive limit no permit."""

from __future__ import annotations

import asyncio

import pytest

from holdfast.adaptive import AdaptiveLimit
from holdfast.testing import ManualClock


@pytest.fixture
def clock() -> ManualClock:
    """Time in our hands."""
    return ManualClock()


def test_a_look_at_an_error_that_fails_costs_no_permit(clock: ManualClock, caplog: pytest.LogCaptureFixture) -> None:
    """The caller gets the error of the call, which is ignored; the log says what failed."""

    def look(error: Exception) -> bool:
        return error.status == 503  # type: ignore[attr-defined, no-any-return]

    limit = AdaptiveLimit("orders", most=10, dropped=look, clock=clock)

    def fail() -> None:
        raise OSError("secret")

    async def fail_async() -> None:
        fail()

    with pytest.raises(OSError, match="secret"):
        limit.call(fail)
    with pytest.raises(OSError, match="secret"):
        asyncio.run(limit.call_async(fail_async))
    with pytest.raises(OSError, match="secret"), limit.block():
        fail()
    assert (limit.in_flight, limit.limit) == (0, 10)
    assert [("orders" in line, "AttributeError" in line, "secret" in line) for line in caplog.messages] == [
        (True, True, False)
    ] * 3


def test_a_loop_that_is_gone_may_have_left_thousands(clock: ManualClock) -> None:
    """Each passes the permit on to the next: that is no recursion."""
    limit = AdaptiveLimit("x", most=1, queue=2000, clock=clock)
    permit = limit.acquire()
    loop = asyncio.new_event_loop()
    waiting = [limit.acquire_async() for _ in range(2000)]
    tasks = [loop.create_task(one) for one in waiting]
    loop.call_soon(loop.stop)
    loop.run_forever()
    assert limit.waiting == 2000
    loop.close()
    permit.succeeded()
    assert (limit.in_flight, limit.waiting) == (0, 0)
    for task, one in zip(tasks, waiting, strict=True):
        task._log_destroy_pending = False  # type: ignore[attr-defined]
        one.close()
