"""A schedule of faults can be drawn again, never overlaps, and leaves time to heal."""

from __future__ import annotations

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from holdfast.drills.schedule import GALERA_SPACING_S, Planned, Schedule, Scope, plan
from holdfast.errors import ConfigurationError

NAMES = ["kill-node", "stop-node", "partition", "freeze-node"]

drills = st.builds(
    plan,
    seed=st.integers(0, 2**32),
    faults=st.lists(st.sampled_from(NAMES), unique=True),
    seconds=st.floats(0.1, 600),
    spacing_s=st.floats(1, 100),
    nodes=st.integers(1, 7),
)


@given(drills)
def test_one_fault_at_a_time_between_baseline_and_healed_phase(schedule: Schedule) -> None:
    """Nothing goes wrong before the baseline is over, none begins before the last is healed, and all are at the end."""
    faults = schedule.faults
    assert 0 <= schedule.baseline_s <= schedule.healed_from_s < schedule.end_s
    assert all(each.duration_s > 0 for each in faults)
    assert all(each.start_s >= schedule.baseline_s for each in faults)
    assert all(each.end_s <= schedule.healed_from_s * (1 + 1e-9) for each in faults)
    assert all(before.end_s < after.start_s for before, after in pairwise(faults))


@given(drills)
def test_every_node_that_is_harmed_is_healed(schedule: Schedule) -> None:
    """The order of healing holds the nodes that were harmed, each once."""
    for each in schedule.faults:
        assert sorted(each.harm) == sorted(each.heal)
        assert len(set(each.harm)) == len(each.harm) >= 1


@given(seed=st.integers(0, 2**32), nodes=st.integers(1, 7), scopes=st.sets(st.sampled_from(Scope), min_size=1))
def test_scope_says_how_many(seed: int, nodes: int, scopes: set[Scope]) -> None:
    """One is one, a majority is more than half, all are all; and no other scope is drawn than those asked for."""
    for each in plan(seed, NAMES, 300.0, nodes=nodes, scopes=sorted(scopes)).faults:
        assert each.scope in scopes
        assert set(each.harm) <= set(range(nodes))
        expected = {Scope.ONE: 1, Scope.MAJORITY: nodes // 2 + 1, Scope.ALL: nodes}
        assert len(each.harm) == expected[each.scope]


@given(seed=st.integers(0, 2**32), names=st.lists(st.sampled_from(NAMES), unique=True, min_size=1))
def test_every_fault_comes_once_before_any_comes_again(seed: int, names: list[str]) -> None:
    """Chance leaves none out."""
    drawn = [each.fault for each in plan(seed, names, 400.0).faults]
    assert len(drawn) >= 2 * len(names)
    for start in range(0, len(drawn) - len(names) + 1, len(names)):
        assert sorted(drawn[start : start + len(names)]) == sorted(names)


def _drawn(seed: int) -> tuple[Planned, ...]:
    return plan(seed, NAMES, 300.0, spacing_s=GALERA_SPACING_S, nodes=3).faults


def test_seed_draws_the_same_again_and_another_seed_another() -> None:
    """A drill can be replayed."""
    assert _drawn(7) == _drawn(7)
    assert len({_drawn(seed) for seed in range(20)}) == 20


def test_healing_takes_another_order_than_harming() -> None:
    """Over some seeds nodes are healed first that were harmed last (a swizzle)."""
    all_down = [each for seed in range(10) for each in _drawn(seed) if each.scope is Scope.ALL]
    assert {each.harm for each in all_down} > {(0, 1, 2)}
    assert any(each.heal != each.harm for each in all_down)


def test_long_drill_has_the_usual_phases() -> None:
    """Six quiet seconds, a fault every ten, fifteen seconds healed."""
    schedule = plan(1, NAMES, 100.0)
    assert (schedule.baseline_s, schedule.healed_from_s, schedule.end_s) == (6.0, 85.0, 100.0)
    assert len(schedule.faults) == 7
    assert {each.duration_s for each in schedule.faults} == {5.0}


def test_short_drill_is_the_long_one_made_small() -> None:
    """Three seconds are enough for a baseline, a fault and a healed phase."""
    schedule = plan(1, ["kill-node"], 3.0)
    assert len(schedule.faults) == 1
    assert schedule.baseline_s == pytest.approx(0.45)
    assert schedule.healed_from_s == pytest.approx(2.1)


def test_no_fault_is_a_quiet_drill() -> None:
    """What the drill costs by itself can be measured."""
    assert plan(1, [], 60.0).faults == ()


def test_phases_may_be_given() -> None:
    """Whoever has phases of its own asks for the time of the faults alone."""
    schedule = plan(1, ["kill-node"], 20.0, baseline_s=0.0, healed_s=0.0)
    assert (schedule.baseline_s, schedule.healed_from_s, len(schedule.faults)) == (0.0, 20.0, 2)


@pytest.mark.parametrize(
    "wrong",
    [
        {"seconds": 0.0},
        {"seconds": float("inf")},
        {"seconds": float("nan")},
        {"spacing_s": 0.0},
        {"nodes": 0},
        {"scopes": ()},
        {"baseline_s": 40.0, "healed_s": 20.0},
        {"baseline_s": -1.0},
    ],
    ids=str,
)
def test_impossible_schedule_is_refused(wrong: dict[str, object]) -> None:
    """What leaves no time, or meets nobody, is said before the drill."""
    arguments: dict[str, object] = {"seed": 1, "faults": NAMES, "seconds": 60.0, **wrong}
    with pytest.raises(ConfigurationError, match=r"no time is left|meet somebody"):
        plan(**arguments)  # type: ignore[arg-type]
