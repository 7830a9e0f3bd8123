"""The failover gate: who waits, for what, and when somebody is let through. No server, no real time."""

from __future__ import annotations

import asyncio
import re
from typing import Any

import pytest

import holdfast.failover
from holdfast.clock import SYSTEM_CLOCK
from holdfast.errors import ConfigurationError, NoWriter
from holdfast.failover import FailoverGate, FailoverSettings, Phase
from tests.unit.failover_world import GENEROUS_S, World, world

# -- settings ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["waiting_max", "release_first"])
@pytest.mark.parametrize("value", [0, -1, 1.5])
def test_counts_are_whole_and_positive(name: str, value: float) -> None:
    """Nobody can wait in no place."""
    with pytest.raises(ConfigurationError, match=f"{name} must be a whole number, 1 or more"):
        FailoverSettings(**{name: value})  # type: ignore[arg-type]


@pytest.mark.parametrize("name", ["stall", "probe_timeout", "proof_timeout", "release_pause"])
def test_times_are_positive(name: str) -> None:
    """A server that has no time to answer never does."""
    with pytest.raises(ConfigurationError, match=f"{name} must be more than 0 seconds"):
        FailoverSettings(**{name: 0.0})  # type: ignore[arg-type]


# -- the gate ------------------------------------------------------------------------------------------------------------


def test_flowing_lets_everybody_pass() -> None:
    """Neither a first attempt nor one that lost its server waits while there is nothing to complain about."""
    with world() as w:
        assert w.gate.enter(0.0) is False
        assert w.gate.enter(0.0, lost_at_outage=0) is False
        assert (w.gate.phase, w.gate.closed, w.woken) == (Phase.FLOWING, False, 0)


def test_suspicion_holds_only_those_who_lost_the_server() -> None:
    """The others find out for themselves, and their answers may clear it."""
    with world() as w:
        (lost,) = w.lose()
        assert (w.gate.phase, w.gate.closed) == (Phase.SUSPECT, False)
        assert w.gate.enter(0.0) is False
        assert lost.waits


def test_nobody_connects_while_there_is_a_search() -> None:
    """Who would connect is turned away while somebody finds out for all, and has lost nothing by it."""
    with world() as w:
        assert not w.gate.is_searching
        w.lose()
        assert w.gate.is_searching
        turned = w.join(lost=True, turned_away=True)
        assert (turned.waits, w.gate.waiting, w.gate.bereft) == (True, 2, 1)
        w.gate.close()
        assert w.gate.is_searching
        w.gate.proven()
        assert not w.gate.is_searching
        w.gate.release(2)
        assert turned.end() is True


def test_one_suspicion_at_a_time() -> None:
    """Whoever else suspects the server begins nothing new; whoever waits makes sure that there is a search."""
    with world() as w:
        w.gate.suspect()
        w.gate.suspect()
        assert w.woken == 1
        w.join(lost=True)
        assert w.woken == 2


def test_away_holds_everybody_and_calls_for_a_search() -> None:
    """Each who comes asks for a search, as the last one may have ended because nobody waited."""
    with world() as w:
        w.gate.suspect()
        w.gate.close()
        fresh = w.join()
        assert fresh.waits
        assert (w.gate.closed, w.woken) == (True, 2)


def test_deadline_ends_the_wait() -> None:
    """Whoever's time is up returns then, with nothing found out, and leaves no trace."""
    with world() as w:
        (lost,) = w.lose(for_s=5.0)
        w.clock.advance(4.9)
        assert lost.waits
        w.clock.advance(0.2)
        assert lost.end() is False
        assert w.gate.waiting == 0


def test_deadline_that_passed_before_is_no_wait() -> None:
    """Who comes too late is not held."""
    with world(closed=True) as w:
        assert w.gate.enter(w.clock.monotonic() - 1.0) is False


def test_no_more_than_may_wait_wait() -> None:
    """One too many is told to come again later."""
    with world(closed=True, waiting_max=2) as w:
        w.join()
        w.join()
        refused = w.join().end()
        assert isinstance(refused, NoWriter)
        assert refused.retry_after_s == 1.0
        assert "2 operations wait" in str(refused)
        assert w.gate.waiting == 2


def test_who_is_owed_the_truth_is_never_refused() -> None:
    """An operation that sent a COMMIT has to find out about it, however many wait."""
    with world(closed=True, waiting_max=1) as w:
        w.join()
        assert w.join(urgent=True).waits
        assert isinstance(w.join().end(), NoWriter)


def test_a_place_is_free_again_when_somebody_leaves() -> None:
    """A wait that the deadline ended counts no longer."""
    with world(closed=True, waiting_max=1) as w:
        w.join(for_s=1.0)
        w.clock.advance(2.0)
        w.callers[0].end()
        assert w.join().waits


def test_acquittal_lets_go_with_the_blame() -> None:
    """The server was there, so each failure was the operation's own."""
    with world() as w:
        lost = w.lose(2)
        w.gate.acquit()
        assert [caller.end() for caller in lost] == [False, False]
        assert (w.gate.phase, w.gate.outages) == (Phase.FLOWING, 0)


def test_an_outage_is_nobodys_own_failure() -> None:
    """Who waited for a server that was proven later neither loses an attempt nor asks the budget."""
    with world() as w:
        lost = w.lose(2)
        w.gate.close()
        fresh = w.join()
        w.gate.proven()
        assert w.gate.phase is Phase.RAMPING
        assert w.gate.release(10) == 0
        assert [caller.end() for caller in (*lost, fresh)] == [True, True, True]
        assert (w.gate.phase, w.gate.closed, w.gate.outages) == (Phase.FLOWING, False, 1)


def test_release_goes_by_arrival() -> None:
    """Who came first is let through first."""
    with world(closed=True) as w:
        first, second, third = w.join(), w.join(), w.join()
        w.gate.proven()
        assert w.gate.release(2) == 1
        assert [first.end(), second.end()] == [True, True]
        assert third.waits
        assert w.gate.phase is Phase.RAMPING


def test_who_comes_during_the_release_stands_in_line() -> None:
    """Nobody overtakes those who waited."""
    with world(closed=True) as w:
        w.join()
        w.gate.proven()
        late = w.join()
        assert late.waits
        w.gate.release(1)
        assert late.waits
        w.gate.release(1)
        assert late.end() is True


def test_who_was_let_through_does_not_stand_in_line_again() -> None:
    """The gate knows them by the outage that had ended, as long as it lets through; after the next one they wait like all."""
    with world(closed=True) as w:
        w.join()
        w.join()
        w.gate.proven()
        w.gate.release(1)
        assert w.gate.has_let_through(w.gate.outages)
        assert not w.gate.has_let_through(w.gate.outages - 1)
        w.gate.suspect()
        assert not w.gate.has_let_through(w.gate.outages)


def test_release_happens_only_after_proof() -> None:
    """While no server takes writes nobody is let through, whoever asks for it."""
    with world(closed=True) as w:
        caller = w.join()
        assert w.gate.release(10) == 1
        assert caller.waits


def test_proof_with_nobody_waiting_opens_at_once() -> None:
    """There is nobody to let through step by step."""
    with world(closed=True) as w:
        w.gate.proven()
        assert (w.gate.phase, w.gate.closed) == (Phase.FLOWING, False)


def test_last_one_to_give_up_opens_the_gate() -> None:
    """The gate does not stay half open for nobody."""
    with world(closed=True) as w:
        caller = w.join(for_s=1.0)
        w.gate.proven()
        w.clock.advance(2.0)
        caller.end()
        assert (w.gate.phase, w.gate.closed) == (Phase.FLOWING, False)


def test_an_outage_that_ended_meanwhile_was_the_reason() -> None:
    """An attempt that began before the outage that is over passes, and is told that the server was away."""
    with world() as w:
        began = w.gate.outages
        w.lose()
        w.gate.proven()
        w.gate.release(1)
        assert w.gate.enter(0.0, lost_at_outage=began) is True
        assert w.gate.enter(0.0, lost_at_outage=w.gate.outages) is False


def test_suspicion_during_the_release_closes_the_gate() -> None:
    """Somebody who was let through lost the server again: the rest go on waiting."""
    with world(closed=True) as w:
        w.join()
        second = w.join()
        w.gate.proven()
        w.gate.release(1)
        w.gate.suspect()
        assert (w.gate.phase, w.gate.closed) == (Phase.AWAY, True)
        assert w.gate.release(5) == 1
        assert second.waits


def test_forked_child_begins_with_nobody() -> None:
    """Who waits and who searches are the parent's; that the server is away is still true."""
    for prepare, phase in ((FailoverGate.suspect, Phase.FLOWING), (FailoverGate.close, Phase.AWAY)):
        with world() as w:
            w.gate.suspect()
            caller = w.join(lost=True)
            prepare(w.gate)
            parents = dict(w.gate._waiters)
            w.gate._lock.acquire()  # held by a thread that does not exist in the child
            w.gate.forget()
            assert (w.gate.waiting, w.gate.phase) == (0, phase)
            w.gate._waiters.update(parents)
            assert caller.waits


# -- the gate, from tasks ------------------------------------------------------------------------------------------------


async def _join(w: World, **options: Any) -> asyncio.Task[bool]:
    task = asyncio.create_task(w.gate.enter_async(w.clock.monotonic() + 60.0, **options))
    while not w.clock.waiting:
        await _turn()
    return task


async def _turn() -> None:
    """Give the other tasks one."""
    await SYSTEM_CLOCK.sleep_async(0)


def test_tasks_are_released_as_threads_are() -> None:
    """The proof reaches a task, also from another thread."""

    async def main() -> None:
        w = World(closed=True)
        task = await _join(w)
        w.gate.proven()
        await asyncio.to_thread(w.gate.release, 1)
        assert await asyncio.wait_for(task, GENEROUS_S) is True
        assert w.gate.phase is Phase.FLOWING

    asyncio.run(main())


def test_cancelled_task_leaves_its_place() -> None:
    """A cancellation ends the wait at once, and the place is free."""

    async def main() -> None:
        w = World(closed=True, waiting_max=1)
        task = await _join(w)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert (w.gate.waiting, w.clock.waiting) == (0, 0)
        another = await _join(w)
        w.gate.proven()
        w.gate.release(1)
        assert await another is True

    asyncio.run(main())


def test_task_at_its_deadline_goes_on() -> None:
    """The wait ends with the time there is."""

    async def main() -> None:
        w = World(closed=True)
        task = await _join(w)
        w.clock.advance(61.0)
        assert await asyncio.wait_for(task, GENEROUS_S) is False
        assert w.gate.waiting == 0

    asyncio.run(main())


def test_loop_that_was_closed_holds_nobody_up() -> None:
    """A waiter whose event loop is gone is passed over, and the next one is let through."""
    w = World(closed=True)
    loop = asyncio.new_event_loop()
    task = loop.create_task(w.gate.enter_async(w.clock.monotonic() + 60.0))
    while not w.gate.waiting:
        loop.run_until_complete(_turn())
    loop.close()
    caller = w.join()
    w.gate.proven()
    assert w.gate.release(2) == 0
    assert caller.end() is True
    task._log_destroy_pending = False  # type: ignore[attr-defined]


# -- what is drawn -------------------------------------------------------------------------------------------------------


def test_the_picture_shows_every_phase() -> None:
    """The drawing at the top of the module names each phase, and no other."""
    picture = (holdfast.failover.__doc__ or "").partition("\n\n")[2].partition("\n\n")[0]
    assert set(re.findall(r"\b[A-Z]{4,}\b", picture)) == {phase.name for phase in Phase}
