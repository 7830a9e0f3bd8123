"""The failover gate and its search: who waits, for what, and when somebody is let through. No server, no real time."""

from __future__ import annotations

import asyncio
import re
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest

from holdfast.backoff import Backoff
from holdfast.clock import SYSTEM_CLOCK
from holdfast.errors import ConfigurationError, NoWriter
from holdfast.failover import (
    MANY,
    RELEASE_STEP_S,
    SETTLE_S,
    Ask,
    FailoverGate,
    FailoverSettings,
    Pause,
    Phase,
    Proof,
    search,
)
from holdfast.testing import ManualClock

WRITER, STANDBY, NODE = Proof(writable=True), Proof(writable=False), Proof(writable=True, clustered=True)
GENEROUS_S = 30.0
"""How long a test waits for another thread: only a bug makes it last."""


class Caller:
    """A thread that waits at a gate. `went`: whether the server had been away, or the error it was refused with."""

    def __init__(self, gate: FailoverGate, expires_at: float, **options: Any) -> None:
        self.went: bool | Exception | None = None
        self._gate = gate
        self._arguments = (expires_at, options)
        self._thread = threading.Thread(target=self._run)
        self._thread.start()

    def _run(self) -> None:
        expires_at, options = self._arguments
        try:
            self.went = self._gate.enter(expires_at, **options)
        except Exception as error:
            self.went = error

    @property
    def waits(self) -> bool:
        return self._thread.is_alive()

    def end(self) -> bool | Exception | None:
        """Wait for it; what came of it."""
        self._thread.join(GENEROUS_S)
        assert not self._thread.is_alive(), "a caller was forgotten at the gate"
        return self.went


class World:
    """A gate with its clock, and a search whose commands a test answers.

    Attributes:
        woken: how often a search was called for.
        told: `lost`, and the writers that were found, in order.
        paused: the pauses the search made.
        asked: the hosts it asked, with `+` where they had to prove that they have caught up.
    """

    def __init__(self, *, closed: bool = False, **settings: Any) -> None:
        self.clock = ManualClock()
        self.settings = FailoverSettings(**settings)
        self.woken = 0
        self.told: list[str] = []
        self.paused: list[float] = []
        self.asked: list[str] = []
        self.callers: list[Caller] = []
        self.gate = FailoverGate(
            waiting_max=self.settings.waiting_max, clock=self.clock, wake_search=self._wake, closed=closed
        )

    def _wake(self) -> None:
        self.woken += 1

    def join(self, *, for_s: float = 60.0, lost: bool = False, **options: Any) -> Caller:
        """Send a caller to the gate and wait until it waits there (or was let through, or refused)."""
        before = self.gate.waiting
        if lost:
            options["lost_at_outage"] = self.gate.outages
        caller = Caller(self.gate, self.clock.monotonic() + for_s, **options)
        # Those who were let through before may still be on their way out, with an alarm set.
        while caller.waits and not self.clock.waiting == self.gate.waiting > before:
            threading.Event().wait(0.001)
        self.callers.append(caller)
        return caller

    def run(
        self,
        *proofs: Proof | Callable[[], Proof],
        hosts: tuple[str, ...] = ("a",),
        current: str | None = "a",
        on_pause: Callable[[float], object] = lambda _: None,
    ) -> str | None:
        """Run a search to its end, its questions answered by `proofs` in order."""
        answers = iter(proofs)
        commands = search(
            self.gate,
            hosts,
            current,
            self.settings,
            random=lambda: 0.5,
            lost=lambda: self.told.append("lost"),
            found=self.told.append,
        )
        answer: Proof | None = None
        while True:
            try:
                command = commands.send(answer)
            except StopIteration as end:
                result: str | None = end.value
                return result
            answer = None
            if isinstance(command, Ask):
                self.asked.append(command.host + "+" * command.caught_up)
                given = next(answers)
                answer = given() if callable(given) else given
            else:
                assert isinstance(command, Pause)
                self.paused.append(command.seconds)
                self.clock.advance(command.seconds)
                on_pause(command.seconds)

    def lose(self, callers: int = 1, **options: Any) -> list[Caller]:
        """That many operations lose their server."""
        self.gate.suspect()
        return [self.join(lost=True, **options) for _ in range(callers)]


@contextmanager
def world(**settings: Any) -> Iterator[World]:
    """A world whose threads have ended when the block ends."""
    made = World(**settings)
    try:
        yield made
    finally:
        made.clock.advance(1e6)
        for caller in made.callers:
            caller.end()
        assert made.gate.waiting == 0


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


# -- the search: is it there? --------------------------------------------------------------------------------------------


def test_server_that_is_there_acquits() -> None:
    """One operation alone lost its connection; the server proves that it takes writes."""
    with world() as w:
        (lost,) = w.lose()
        assert w.run(WRITER) is None
        assert lost.end() is False
        assert (w.asked, w.told, w.paused) == (["a"], [], [SETTLE_S])


def test_another_operations_answer_is_proof_enough() -> None:
    """On a busy database nobody has to connect to find out that the server is there."""
    with world() as w:
        (lost,) = w.lose()
        assert w.run(on_pause=lambda _: w.gate.answered()) is None
        assert lost.end() is False
        assert w.asked == []


def test_an_answer_from_before_proves_nothing() -> None:
    """What was answered before the suspicion came up is no sign of life."""
    with world() as w:
        w.gate.answered()
        w.clock.advance(0.001)
        w.lose()
        w.run(WRITER)
        assert w.asked == ["a"]


def test_server_without_a_free_connection_is_there() -> None:
    """It refuses the search, too, and that is an answer; only to a change of role it is none."""
    full = Proof(writable=False, full=True)
    with world() as w:
        (lost,) = w.lose()
        assert w.run(full) is None
        assert lost.end() is False
        assert w.told == []
        w.clock.advance(1.0)
        w.gate.suspect(role_changed=True)
        w.join(lost=True)
        assert w.run(full, full, WRITER) == "a"
        assert w.told == ["lost", "a"]


def test_role_change_is_not_cleared_by_an_answer() -> None:
    """A server that turned read-only goes on answering."""
    with world() as w:
        w.gate.suspect(role_changed=True)
        w.join(lost=True)
        assert w.run(STANDBY, WRITER, on_pause=lambda _: w.gate.answered()) == "a"
        assert w.told == ["lost", "a"]


def test_role_change_told_to_a_suspicion_counts() -> None:
    """Who comes second with better knowledge is heard; after the proof it is forgotten."""
    with world() as w:
        w.lose()
        w.gate.suspect(role_changed=True)
        w.gate.answered()
        assert not w.gate.is_cleared
        w.run(WRITER)
        w.clock.advance(1.0)
        w.lose()
        w.clock.advance(0.001)
        w.gate.answered()
        assert w.gate.is_cleared


@pytest.mark.parametrize(("callers", "away"), [(MANY - 1, False), (MANY, True)])
def test_many_lost_at_once_were_an_outage(callers: int, away: bool) -> None:
    """A server that restarted in between is there again, and those it dropped have not failed by their own fault."""
    with world() as w:
        lost = w.lose(callers)
        assert w.run(WRITER) == ("a" if away else None)
        assert [caller.end() for caller in lost] == [away] * callers
        assert w.told == (["a"] if away else [])
        assert w.gate.outages == away


# -- the search: where is it? --------------------------------------------------------------------------------------------


def test_no_proof_means_away_until_one_comes() -> None:
    """The search goes on, with growing pauses, until a server takes writes."""
    with world(pace=Backoff(base=0.1, cap=0.4)) as w:
        (lost,) = w.lose()
        phases: list[Phase] = []

        def prove() -> Proof:
            phases.append(w.gate.phase)
            return WRITER if len(phases) == 4 else STANDBY

        assert w.run(STANDBY, *[prove] * 4) == "a"
        assert phases == [Phase.AWAY] * 4
        assert w.paused[:4] == [SETTLE_S, 0.05, 0.1, 0.2]
        assert w.told == ["lost", "a"]
        assert lost.end() is True


def test_hosts_are_asked_in_the_order_of_preference() -> None:
    """The first that takes writes is taken; those behind it are not asked."""
    with world() as w:
        w.lose()
        assert w.run(STANDBY, STANDBY, WRITER, hosts=("a", "b", "c")) == "b"
        assert w.asked == ["a", "a", "b"]
        assert w.told == ["lost", "b"]


def test_search_begins_anew_at_the_preferred() -> None:
    """Each round starts with the first host, also after a move away from it."""
    with world() as w:
        w.lose()
        assert w.run(STANDBY, WRITER, hosts=("a", "b"), current="b") == "a"
        assert w.asked == ["b", "a"]


def test_the_first_operation_has_the_writer_found() -> None:
    """With several hosts and none chosen nobody passes before one is proven."""
    with world(closed=True) as w:
        caller = w.join()
        assert (w.gate.phase, w.woken) == (Phase.AWAY, 1)
        assert w.run(STANDBY, WRITER, hosts=("a", "b"), current=None) == "b"
        assert w.paused == []
        assert caller.end() is True


def test_node_of_a_cluster_proves_that_it_has_caught_up() -> None:
    """A read right after the move must see what the lost node had acknowledged."""
    with world() as w:
        w.lose()
        assert w.run(STANDBY, STANDBY, NODE, NODE, hosts=("a", "b")) == "b"
        assert w.asked == ["a", "a", "b", "b+"]


def test_node_that_does_not_catch_up_is_passed_over() -> None:
    """It takes writes, but not yet ours."""
    with world() as w:
        w.lose()
        assert w.run(STANDBY, NODE, STANDBY, NODE, NODE, hosts=("a", "b")) == "b"
        assert w.asked == ["a", "a", "a+", "b", "b+"]


def test_only_node_that_is_named_need_not_catch_up() -> None:
    """Where there is one host, whoever comes back to it reads what it has."""
    with world() as w:
        w.lose()
        assert w.run(STANDBY, NODE) == "a"
        assert w.asked == ["a", "a"]


def test_writer_is_known_before_anybody_is_let_through() -> None:
    """Connections must go to the new server when the first caller makes one."""
    with world(closed=True) as w:
        caller = w.join()
        seen: list[tuple[Phase, bool]] = []
        commands = search(
            w.gate, ("a",), None, w.settings, random=lambda: 0.5, lost=lambda: None,
            found=lambda _: seen.append((w.gate.phase, caller.waits)),
        )  # fmt: skip
        assert next(commands) == Ask("a", 1.0)
        with pytest.raises(StopIteration):
            commands.send(WRITER)
        assert seen == [(Phase.AWAY, True)]


# -- the release ---------------------------------------------------------------------------------------------------------


def test_release_doubles_when_somebody_got_through() -> None:
    """Four first, then twice as many after each step in which an answer came."""
    with world(closed=True) as w:
        for _ in range(30):
            w.join()
        left: list[int] = []

        def answer(_: float) -> None:
            left.append(w.gate.waiting)
            w.gate.answered()

        assert w.run(WRITER, on_pause=answer) == "a"
        assert left == [26, 18, 2]
        assert w.paused == [RELEASE_STEP_S] * 3


def test_release_waits_for_an_answer_no_longer_than_its_pause() -> None:
    """Where nobody gets through for a while, more are sent all the same."""
    with world(closed=True, release_first=1, release_pause=0.1) as w:
        for _ in range(3):
            w.join()
        w.run(WRITER)
        assert w.paused == [RELEASE_STEP_S] * 5


def test_release_does_not_grow_by_an_old_answer() -> None:
    """Only an answer from after the last step counts."""
    with world(closed=True, release_first=1, release_pause=0.1) as w:
        for _ in range(7):
            w.join()
        w.gate.answered()
        first = iter([True])

        def answer_once(_: float) -> None:
            if next(first, False):
                w.gate.answered()

        w.run(WRITER, on_pause=answer_once)
        assert len(w.paused) == 1 + 5


def test_release_that_is_cut_off_begins_anew() -> None:
    """The server went again: the rest wait, the search pauses longer and asks again, and begins with a few."""
    with world(closed=True, release_first=1, pace=Backoff(base=1.0, cap=8.0)) as w:
        callers = [w.join() for _ in range(4)]
        suspicions = iter([True])

        def on_pause(_: float) -> None:
            if next(suspicions, False):
                w.gate.suspect()
            else:
                w.gate.answered()

        assert w.run(WRITER, STANDBY, WRITER, on_pause=on_pause) == "a"
        assert w.paused[:3] == [RELEASE_STEP_S, 0.5, 1.0]
        assert [caller.end() for caller in callers] == [True] * 4
        assert w.told == ["lost", "a", "a"]
        assert w.gate.outages == 2


def test_new_suspicion_is_left_to_a_new_search() -> None:
    """All whom the search let through have left, and then somebody lost the server anew: this search is over."""
    with world(closed=True, release_first=1) as w:
        w.join(for_s=0.01)
        w.join(for_s=0.01)
        lost: list[Caller] = []

        def on_pause(_: float) -> None:
            for caller in w.callers:
                caller.end()
            lost.extend(w.lose())

        assert w.run(WRITER, on_pause=on_pause) == "a"
        assert (w.gate.phase, lost[0].waits) == (Phase.SUSPECT, True)


def test_search_that_gave_up_is_begun_again() -> None:
    """Nobody waited and the search ended; who comes next calls for another one and is let through by it."""
    with world() as w:
        w.lose(for_s=1.0)
        commands = search(w.gate, ("a",), "a", w.settings, random=lambda: 0.5, lost=lambda: None, found=lambda _: None)
        answer: Proof | None = None
        for _ in range(6):
            command = commands.send(answer)
            answer = STANDBY if isinstance(command, Ask) else None
        commands.close()
        w.clock.advance(2.0)
        w.callers[0].end()
        assert (w.gate.phase, w.gate.waiting) == (Phase.AWAY, 0)
        woken = w.woken
        caller = w.join()
        assert w.woken == woken + 1
        assert w.run(WRITER) == "a"
        assert caller.end() is True


# -- what is drawn -------------------------------------------------------------------------------------------------------


def test_the_picture_shows_every_phase() -> None:
    """The drawing at the top of the module names each phase, and no other."""
    import holdfast.failover

    picture = (holdfast.failover.__doc__ or "").partition("\n\n")[2].partition("\n\n")[0]
    assert set(re.findall(r"\b[A-Z]{4,}\b", picture)) == {phase.name for phase in Phase}
