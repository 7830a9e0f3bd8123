"""The planted bugs that need no server, at every run of the tests; the others by `python -m tests.drills.mutants`."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from holdfast.drills.verdict import Validity

from .mutants import commits, contention, crashes, judges, service
from .mutants.mutant import MUTANTS, Mutant
from .mutants.stage import Stage

_WITH_SERVERS = {commits.cut_commits, commits.cut_commits_without_keys, commits.interrupted_echoes, contention.hot_row,
                 contention.lock_wait, crashes.asked_at_another_node, crashes.killed_server, service.outage,
                 service.overload}  # fmt: skip
_WITHOUT = [mutant for mutant in MUTANTS if mutant.scene not in _WITH_SERVERS]


@pytest.fixture(scope="module")
def stage() -> Iterator[Stage]:
    with Stage(seed=7) as opened:
        yield opened


@pytest.mark.filterwarnings("ignore")  # faults leave connections behind, which is their point
@pytest.mark.parametrize("mutant", _WITHOUT, ids=lambda mutant: mutant.name)
def test_planted_bug_turns_its_checker_red(mutant: Mutant, stage: Stage) -> None:
    """With the bug the checker answers invalid, without it valid."""
    assert mutant.play(stage, bug=True).valid is Validity.INVALID
    assert mutant.play(stage, bug=False).valid is Validity.VALID


def test_every_mutant_is_listed_once() -> None:
    """Sixteen bugs, one of which stands for each comparison of three checkers; each says in a sentence what it is."""
    assert len({mutant.name for mutant in MUTANTS}) == len(MUTANTS)
    turned = [mutant for mutant in MUTANTS if mutant.checker is judges.known_verdicts]
    assert (len(MUTANTS) - len(turned), len(turned)) == (15, 10)
    assert all(mutant.sentence.endswith(".") for mutant in MUTANTS)
