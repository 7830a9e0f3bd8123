"""Sessions are ended from one side connection at a time, and a server that turns it away is left alone for a while."""

from __future__ import annotations

import threading
from typing import Any

from holdfast.clock import SYSTEM_CLOCK
from holdfast.dialects import Flavour
from holdfast.ext.sqlalchemy.interrupt import Identity
from holdfast.ext.sqlalchemy.killer import PAUSE_S, AsyncKiller, Killer
from holdfast.testing import ManualClock

MANY = 20
GENEROUS_S = 30.0
"""How long a test waits for another thread: only a bug makes it last."""


class Engine:
    """Turns everybody away, and counts them."""

    def __init__(self) -> None:
        self.came = 0

    def connect(self) -> Any:
        self.came += 1
        raise ConnectionRefusedError


def identity(number: int) -> Identity:
    return Identity(Flavour.MARIADB, number, 1)


class HeldClock:
    """Whoever sleeps by it does so until it is let go."""

    monotonic = staticmethod(SYSTEM_CLOCK.monotonic)

    def __init__(self) -> None:
        self.asleep, self.go_on = threading.Event(), threading.Event()
        self.slept: list[float] = []

    def sleep(self, seconds: float) -> None:
        self.slept.append(seconds)
        self.asleep.set()
        assert self.go_on.wait(GENEROUS_S)


def test_a_server_that_turns_away_is_asked_once_for_all_that_gathered() -> None:
    """In threads: while the killer pauses nobody connects, and afterwards one does for everybody."""
    clock, engine = HeldClock(), Engine()
    killer: Any = Killer(engine, clock=clock)  # type: ignore[arg-type]
    told: list[bool] = []
    killer.kill_soon(identity(0), told.append)
    thread = killer._thread
    assert clock.asleep.wait(GENEROUS_S)
    for number in range(MANY):
        killer.kill_soon(identity(number), told.append)
    assert (engine.came, told, clock.slept) == (1, [False], [PAUSE_S])
    clock.go_on.set()
    thread.join(GENEROUS_S)
    assert (engine.came, told, clock.slept) == (2, [False] * (1 + MANY), [PAUSE_S] * 2)


def test_nobody_is_forgotten_who_comes_while_the_rest_is_given_up() -> None:
    """Another thread has the list in its hand, and puts somebody in a moment later."""
    told: list[bool] = []
    killer: Any = Killer(Engine())  # type: ignore[arg-type]
    in_hand = killer._waiting
    for _ in range(2):
        in_hand.append((identity(1), told.append))
        killer._give_up(ConnectionRefusedError())
    assert told == [False, False]


async def test_the_same_in_tasks_and_closing_does_not_wait_for_the_pause() -> None:
    """In tasks: likewise, and `aclose` ends the pause."""
    clock, engine = ManualClock(), Engine()
    killer = AsyncKiller(engine, clock=clock)  # type: ignore[arg-type]
    told: list[bool] = []
    killer.kill_soon(identity(0), told.append)
    for _ in range(10):  # turns of the loop: it connects, and pauses
        await SYSTEM_CLOCK.sleep_async(0)
    for number in range(MANY):
        killer.kill_soon(identity(number), told.append)
    await SYSTEM_CLOCK.sleep_async(0)
    assert (engine.came, told) == (1, [False])
    await killer.aclose()
    assert (engine.came, told) == (2, [False] * (1 + MANY))
