"""What happens when, and when bytes leave: the pure half of the fault proxy."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from holdfast.clock import seeded_random
from holdfast.errors import ConfigurationError
from holdfast.faultproxy import (
    Bandwidth,
    Down,
    Garbage,
    Kind,
    Latency,
    LimitData,
    Phase,
    Queue,
    ResetPeer,
    Slicer,
    SlowClose,
    Statement,
    Stream,
    Timeout,
    Toxic,
)
from holdfast.faultproxy.pacing import Turns, paced
from holdfast.faultproxy.plan import Handle, Plan, Selector, check
from holdfast.faultproxy.toxics import name_of

COMMIT, INSERT, PING = (
    Statement(Kind.COMMIT, b"COMMIT"),
    Statement(Kind.OTHER, b"INSERT 'secret'"),
    Statement(Kind.COMMAND),
)


def planned(
    *, at: Phase = Phase.BEFORE, on: Selector = None, toxicity: float = 1.0, times: int | None = None, seed: int = 0
) -> tuple[Plan, Handle]:
    plan = Plan(seeded_random(seed))

    def remove(handle: Handle) -> None:
        plan.remove(handle)

    handle = Handle(ResetPeer(), at, on, None, toxicity, times, remove)
    plan.add(handle)
    return plan, handle


def test_a_toxic_acts_at_its_phase_alone() -> None:
    """At no other, and only statements are looked at for it."""
    plan, handle = planned(at=Phase.ANSWERED)
    assert plan.watches_statements
    assert [phase for phase in Phase if plan.at(phase, COMMIT) == [handle]] == [Phase.ANSWERED]
    handle.remove()
    assert not plan.watches_statements
    assert plan.at(Phase.ANSWERED, COMMIT) == []
    assert not planned(at=Phase.ALWAYS)[0].watches_statements


@pytest.mark.parametrize(
    ("on", "meant"),
    [
        (None, [COMMIT, INSERT]),
        (Kind.COMMIT, [COMMIT]),
        (Kind.COMMAND, [PING]),
        (lambda statement: statement.text.startswith("INSERT"), [INSERT]),
    ],
)
def test_a_selector_chooses_statements(on: Selector, meant: list[Statement]) -> None:
    """By kind, by a function; any is any statement, but no command."""
    plan, _ = planned(on=on)
    assert [statement for statement in (COMMIT, INSERT, PING) if plan.at(Phase.BEFORE, statement)] == meant


def test_a_selector_that_raises_selects_nothing() -> None:
    """The proxy goes on, and remembers the first exception."""
    plan, _ = planned(on=lambda statement: len(statement.text) < 1 / 0)
    assert plan.at(Phase.BEFORE, COMMIT) == []
    assert isinstance(plan.error, ZeroDivisionError)


def test_times_bounds_how_often() -> None:
    """Spent, it is gone."""
    plan, handle = planned(times=2)
    assert [len(plan.at(Phase.BEFORE, COMMIT)) for _ in range(4)] == [1, 1, 0, 0]
    assert handle.spent
    assert not plan.watches_statements


def test_toxicity_is_drawn_by_seed() -> None:
    """The share is the toxicity, and the same seed draws the same."""
    draws = []
    for seed in (7, 7, 8):
        plan, _ = planned(toxicity=0.25, seed=seed)
        draws.append([bool(plan.at(Phase.BEFORE, COMMIT)) for _ in range(4000)])
    assert draws[0] == draws[1] != draws[2]
    assert 900 < sum(draws[0]) < 1100


def test_a_statement_does_not_show_its_text() -> None:
    """It may hold anything."""
    assert "secret" not in repr(INSERT)
    assert INSERT.text == "INSERT 'secret'"


@pytest.mark.parametrize(
    "make",
    [
        lambda: ResetPeer(timeout=-1),
        lambda: Timeout(timeout=math.nan),
        lambda: Latency(-0.1),
        lambda: Latency(1, jitter=math.inf),
        lambda: Bandwidth(0),
        lambda: Slicer(0),
        lambda: LimitData(-1),
        lambda: SlowClose(-1),
        lambda: Queue(0),
        lambda: Queue(1, patience=-1),
        lambda: Garbage(0),
        lambda: check(ResetPeer(), Phase.BEFORE, None, None, 1.1, None),
        lambda: check(ResetPeer(), Phase.BEFORE, None, None, 1.0, 0),
        lambda: check(ResetPeer(), Phase.CONNECT, Kind.COMMIT, None, 1.0, None),
        lambda: check(ResetPeer(), Phase.BEFORE, None, Stream.UPSTREAM, 1.0, None),
        lambda: check(Down(), Phase.CONNECT, None, None, 1.0, None),
        lambda: check(Down(), Phase.ALWAYS, None, None, 0.5, None),
        lambda: check(Queue(1), Phase.ALWAYS, None, None, 1.0, None),
        lambda: check(Queue(1), Phase.BEFORE, None, Stream.UPSTREAM, 1.0, None),
        lambda: check(Timeout(), Phase.CONNECT, None, Stream.UPSTREAM, 1.0, None),
    ],
)
def test_what_cannot_work_is_refused(make: Callable[[], object]) -> None:
    """Where it is given, before anything runs."""
    with pytest.raises(ConfigurationError):
        make()


def test_names_are_those_of_toxiproxy() -> None:
    """Where it has a word; three are ours."""
    toxics: list[Toxic] = [ResetPeer(), Timeout(), Latency(1), Bandwidth(1), Slicer(1), LimitData(1), SlowClose(1)]
    names = ["reset_peer", "timeout", "latency", "bandwidth", "slicer", "limit_data", "slow_close"]
    assert [name_of(toxic) for toxic in toxics] == names
    assert [name_of(toxic) for toxic in (Queue(1), Garbage(), Down())] == ["queue", "garbage", "down"]


def test_a_queue_serves_one_after_the_other() -> None:
    """Each waits for all before it, whoever they are; who would have to wait longer than its patience finds no room."""
    turns, queue = Turns(), Queue(rate=10, patience=0.25)
    assert [turns.take(queue, 5.0) for _ in range(5)] == [
        pytest.approx(0.1),
        pytest.approx(0.2),
        pytest.approx(0.3),
        None,
        None,
    ]
    assert turns.take(queue, 5.2) == pytest.approx(0.2)
    assert turns.take(queue, 9.0) == pytest.approx(0.1)


@given(st.lists(st.floats(0, 0.2), min_size=1, max_size=200), st.floats(1, 100), st.floats(0, 2))
def test_a_queue_is_served_at_its_rate(gaps: list[float], rate: float, patience: float) -> None:
    """However they come, no two are served closer together than the rate allows, and none waits longer than it may."""
    turns, queue, now, served = Turns(), Queue(rate, patience), 0.0, list[float]()
    for gap in gaps:
        now += gap
        wait = turns.take(queue, now)
        if wait is not None:
            assert wait <= patience + 1 / rate + 1e-9
            served.append(now + wait)
    assert all(later - earlier >= 1 / rate - 1e-9 for earlier, later in itertools.pairwise(served))


TOXICS = st.one_of(
    st.builds(Latency, st.floats(0, 2), st.floats(0, 2)),
    st.builds(Bandwidth, st.floats(1, 1e4)),
    st.builds(Slicer, st.integers(1, 50), st.integers(0, 60), st.floats(0, 1)),
    st.builds(SlowClose, st.floats(0, 2)),
)


@given(st.binary(min_size=1, max_size=400), st.lists(TOXICS, max_size=4), st.floats(0, 10), st.integers(0, 2**32))
def test_paced_bytes_are_all_there_and_in_order(data: bytes, toxics: list[Toxic], earliest: float, seed: int) -> None:
    """None is lost, none overtakes, none is earlier than latency and rate allow."""
    parcels = list(paced(data, 5.0, earliest, toxics, seeded_random(seed)))
    assert b"".join(parcel.data for parcel in parcels) == data
    times = [parcel.due_s for parcel in parcels]
    assert times == sorted(times)
    least = sum(max(0.0, toxic.latency - toxic.jitter) for toxic in toxics if isinstance(toxic, Latency))
    assert times[0] >= max(5.0 + least, earliest) - 1e-9
    rate = min((toxic.rate for toxic in toxics if isinstance(toxic, Bandwidth)), default=math.inf)
    assert times[-1] >= 5.0 + least + len(data) / rate - 1e-6


def test_slices_have_their_size_and_their_delay() -> None:
    """Ten bytes in parts of four, a second between two."""
    parcels = list(paced(b"0123456789", 0.0, 0.0, [Slicer(4, delay=1.0)], seeded_random(0)))
    assert parcels == [(0.0, b"0123"), (1.0, b"4567"), (2.0, b"89")]
