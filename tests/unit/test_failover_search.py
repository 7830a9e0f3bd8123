"""The search for the writer: what it asks, whom it believes, and how it lets those through who wait. No server, no real time."""

from __future__ import annotations

import pytest

from holdfast.backoff import Backoff
from holdfast.failover import MANY, RELEASE_STEP_S, SETTLE_S, Ask, Pause, Phase, Proof, search
from tests.unit.failover_world import NODE, STANDBY, WRITER, Caller, world

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
        assert w.run(on_pause=lambda _: w.answer()) is None
        assert lost.end() is False
        assert w.asked == []


@pytest.mark.parametrize("answered", [True, False])
def test_server_that_serves_others_while_it_lets_the_search_wait_is_there(answered: bool) -> None:
    """With too much to do it may be too slow for the search, or turn it away: nobody has to wait for an end of that."""
    with world() as w:
        (lost,) = w.lose()

        def too_slow() -> Proof:
            w.clock.advance(1.0)
            if answered:
                w.answer()
            return Proof(writable=False)

        assert w.run(too_slow, WRITER) == (None if answered else "a")
        assert lost.end() is not answered
        assert w.told == ([] if answered else ["lost", "a"])


def test_an_answer_from_before_proves_nothing() -> None:
    """What was answered before the suspicion came up is no sign of life."""
    with world() as w:
        w.answer()
        w.clock.advance(0.001)
        w.lose()
        w.run(WRITER)
        assert w.asked == ["a"]


def test_answer_that_is_told_late_proves_nothing() -> None:
    """A thread tells of an answer after the suspicion came up that it had asked for before: the server may be gone since."""
    with world() as w:
        asked_at = w.clock.monotonic()
        w.clock.advance(0.5)
        w.lose()

        def tell(_: float) -> None:
            w.gate.answered(asked_at)

        assert w.run(STANDBY, WRITER, on_pause=tell) == "a"
        assert w.told == ["lost", "a"]


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
        assert w.run(STANDBY, WRITER, on_pause=lambda _: w.answer()) == "a"
        assert w.told == ["lost", "a"]


def test_role_change_told_to_a_suspicion_counts() -> None:
    """Who comes second with better knowledge is heard; after the proof it is forgotten."""
    with world() as w:
        w.lose()
        w.gate.suspect(role_changed=True)
        w.answer()
        assert not w.gate.is_cleared
        w.run(WRITER)
        w.clock.advance(1.0)
        w.lose()
        w.clock.advance(0.001)
        w.answer()
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


def test_who_was_turned_away_is_no_witness() -> None:
    """Callers that never reached the server do not make one loss an outage, which would cost everybody the pool."""
    with world() as w:
        (lost,) = w.lose()
        turned = [w.join(lost=True, turned_away=True) for _ in range(MANY)]
        assert w.run(WRITER) is None
        assert [caller.end() for caller in (lost, *turned)] == [False] * (1 + MANY)
        assert w.told == []


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
        assert w.run(STANDBY, WRITER, hosts=("a", "b")) == "b"
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


def test_server_without_a_name_is_asked_like_any_other() -> None:
    """The URL of a Unix socket names no host; a lone lost connection to it is no outage."""
    with world() as w:
        (caller,) = w.lose()
        lost: list[str] = []
        commands = search(
            w.gate,
            (None,),
            None,
            w.settings,
            random=lambda: 0.5,
            lost=lambda: lost.append("lost"),
            found=lambda _: None,
        )
        assert isinstance(next(commands), Pause)
        assert commands.send(None) == Ask(None, 1.0)
        with pytest.raises(StopIteration):
            commands.send(WRITER)
        assert (w.gate.phase, w.gate.outages, lost) == (Phase.FLOWING, 0, [])
        assert caller.end() is False


# -- the release ---------------------------------------------------------------------------------------------------------


def test_release_doubles_when_somebody_got_through() -> None:
    """Four first, then twice as many after each step in which an answer came."""
    with world(closed=True) as w:
        for _ in range(30):
            w.join()
        left: list[int] = []

        def answer(_: float) -> None:
            left.append(w.gate.waiting)
            w.answer()

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
        w.answer()
        first = iter([True])

        def answer_once(_: float) -> None:
            if next(first, False):
                w.answer()

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
                w.answer()

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
