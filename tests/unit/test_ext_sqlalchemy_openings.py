"""Who may open a connection at a server that had none left."""

from __future__ import annotations

import threading

from holdfast.ext.sqlalchemy.openings import Openings

WAITING = 24


def let_through(openings: Openings, now: float) -> int:
    """How many of those who wait may open a connection at `now`."""
    return sum(openings.may_open(now) for _ in range(WAITING))


def end(openings: Openings, count: int, *, opened: bool = False) -> None:
    """So many are over."""
    for _ in range(count):
        if opened:
            openings.opened()
        openings.ended()


def test_without_trouble_everybody_may() -> None:
    """A cold start opens as many as the pool has."""
    openings = Openings()
    assert let_through(openings, 0.0) == WAITING
    assert not openings.are_bounded


def test_a_full_server_is_asked_by_one_at_a_time() -> None:
    """Of 24 that wait, two a second ask, whatever became of those who had asked before."""
    openings = Openings()
    assert let_through(openings, 0.0) == WAITING
    openings.refused(0.0)
    end(openings, WAITING)
    asked = []
    for tenth in range(1, 51):
        now = tenth / 10
        through = let_through(openings, now)
        asked.append(through)
        if through:
            openings.refused(now)
        end(openings, through)
    assert sum(asked) == 10
    assert max(asked) == 1
    assert openings.are_bounded


def test_nobody_asks_while_one_does() -> None:
    """Also when its login takes longer than the server is left alone."""
    openings = Openings()
    openings.refused(0.0)
    assert [openings.may_open(0.4), openings.may_open(0.5), openings.may_open(60.0)] == [False, True, False]


def test_room_is_used_step_by_step() -> None:
    """Each that was opened doubles how many may be at a time; soon nothing is bounded any more."""
    openings = Openings()
    openings.refused(0.0)
    steps = []
    while openings.are_bounded:
        through = let_through(openings, 1.0)
        steps.append(through)
        end(openings, through, opened=True)
    assert steps == [1, 2, 8]
    assert let_through(openings, 1.0) == WAITING


def test_room_for_one_is_room_for_one() -> None:
    """The next refusal begins anew."""
    openings = Openings()
    openings.refused(0.0)
    end(openings, let_through(openings, 1.0), opened=True)
    through = let_through(openings, 1.0)
    assert through == 2
    openings.refused(1.0)
    end(openings, through)
    assert [let_through(openings, 1.2), let_through(openings, 1.5)] == [0, 1]


def test_threads_do_not_both_get_the_one_place() -> None:
    """64 threads ask at the same moment, many times; each time one may."""
    openings = Openings()
    for _ in range(50):
        openings.refused(0.0)
        barrier = threading.Barrier(64)
        through: list[bool] = []

        def ask(barrier: threading.Barrier = barrier, through: list[bool] = through) -> None:
            barrier.wait()
            through.append(openings.may_open(1.0))

        threads = [threading.Thread(target=ask) for _ in range(64)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert sum(through) == 1
        openings.ended()
