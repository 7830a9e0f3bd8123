"""A key of Holdfast's own, claimed together with COMMIT: one request less while nothing is in doubt."""

from __future__ import annotations

from typing import Any

import pytest

from holdfast.errors import ConfigurationError, Unavailable
from holdfast.events import CommitResolved
from holdfast.operation import Record
from holdfast.outcome import Failure, FailureClass, Outcome, Rejection, Stage
from holdfast.transaction import Do, Happening, Plan, Protection, What
from tests.unit.driven_engine import AMBIGUOUS, CONTENTION, LOST, Driven, failed

REFUSED_FOR_GOOD = failed(FailureClass.PERMANENT, rejection=Rejection.CHECK)


def late(**settings: Any) -> Driven:
    return Driven(Protection.KEY, claims_late=True, **settings)


def late_in_doubt(**settings: Any) -> Driven:
    driven = late(**settings)
    driven.until(Do.COMMIT)
    driven.tell(AMBIGUOUS)
    return driven


def test_without_a_fault_the_claim_goes_with_commit() -> None:
    """BEGIN, body, COMMIT: the server is asked for nothing else."""
    driven = late()
    assert driven.until(Do.COMMIT).claiming
    driven.end()
    assert driven.done == [Do.BEGIN, Do.RUN, Do.COMMIT, Do.RETURN]


@pytest.mark.parametrize("failure", [CONTENTION, LOST], ids=["contention", "lost"])
def test_a_failure_that_leaves_no_doubt_changes_nothing(failure: Happening) -> None:
    """The COMMIT of the attempt that failed was never sent, so its row cannot be on its way."""
    driven = late()
    driven.until(Do.RUN)
    driven.tell(failure)
    assert driven.until(Do.COMMIT).claiming
    assert Do.CLAIM not in driven.done


def test_in_doubt_the_rerun_claims_first() -> None:
    """Its insert finds the row, or is there before it; then COMMIT carries no second one."""
    driven = late_in_doubt()
    assert not driven.until(Do.CLAIM).settling
    assert not driven.until(Do.COMMIT).claiming


def test_the_row_that_is_found_is_the_first_attempts() -> None:
    """It was committed: its own result is returned, and the body does not run again."""
    driven = late_in_doubt()
    driven.until(Do.CLAIM)
    driven.tell(Happening(What.FOUND, record=Record("f", 1, None)))
    action = driven.end()
    assert (action.do, action.attempt, driven.done.count(Do.RUN)) == (Do.RETURN, 1, 1)


def test_an_insert_proves_nothing_while_the_first_row_may_be_on_its_way() -> None:
    """The rerun has claimed and is refused for good; once its row is gone the ghost may come. So a tombstone is left."""
    driven = late_in_doubt()
    driven.until(Do.RUN)
    driven.tell(REFUSED_FOR_GOOD)
    assert driven.until(Do.CLAIM).settling
    assert not driven.until(Do.COMMIT).claiming
    action = driven.end()
    assert isinstance(action.error, Unavailable)
    assert action.error.outcome is Outcome.NOT_COMMITTED


def test_the_rerun_that_is_committed_settles_the_doubt() -> None:
    """Two rows of one key cannot both be committed, so the COMMIT in doubt has failed or will."""
    driven = late_in_doubt(narrate=True)
    driven.end()
    resolved = [note.outcome for note in driven.engine.notes if isinstance(note, CommitResolved)]
    assert resolved == [Outcome.NOT_COMMITTED]
    assert driven.engine.outcome is Outcome.COMMITTED


@pytest.mark.parametrize("settings", [{"keyed": True}, {"protection": Protection.STATUS}], ids=["keyed", "status"])
def test_only_a_key_of_ones_own_is_claimed_late(settings: dict[str, Any]) -> None:
    """With a caller's key others wait for the row while the body runs."""
    with pytest.raises(ConfigurationError, match="own"):
        Plan("transfer", 1.0, **{"protection": Protection.KEY, "claims_late": True, **settings})


COMMIT_FAILED = Failure(FailureClass.AMBIGUOUS, Stage.COMMIT, "mariadb", 1)


@pytest.mark.parametrize(
    "rejection", [Rejection.MISSING_TABLE, Rejection.MISSING_COLUMN, Rejection.ACCESS_DENIED], ids=str
)
def test_a_block_that_cannot_use_the_table_was_not_committed(rejection: Rejection) -> None:
    """COMMIT needs no table, so it was the statement in front of it that was refused."""
    of_block = pytest.importorskip("holdfast.ext.sqlalchemy.keyrows").of_block
    refused = Failure(FailureClass.PERMANENT, Stage.BODY, "mariadb", 1, rejection=rejection)
    assert of_block(COMMIT_FAILED, refused) is refused


def test_a_block_whose_row_found_no_room_was_not_committed() -> None:
    """The table is full (1114): a row has no place, and COMMIT writes none."""
    of_block = pytest.importorskip("holdfast.ext.sqlalchemy.keyrows").of_block
    full = Failure(FailureClass.EXHAUSTED, Stage.BODY, "mariadb", 1114)
    assert of_block(COMMIT_FAILED, full) is full


@pytest.mark.parametrize("code", [1021, 1026, 1180])
def test_any_other_failure_of_a_block_is_one_of_commit(code: int) -> None:
    """COMMIT may find the disk full as well. And a duplicate may be the row of the same request, sent twice on the way."""
    of_block = pytest.importorskip("holdfast.ext.sqlalchemy.keyrows").of_block
    other = Failure(FailureClass.EXHAUSTED, Stage.BODY, "mariadb", code)
    assert of_block(COMMIT_FAILED, other) is COMMIT_FAILED
    duplicate = Failure(FailureClass.PERMANENT, Stage.COMMIT, "mariadb", 1062, rejection=Rejection.DUPLICATE)
    assert of_block(duplicate, duplicate).failure_class is FailureClass.AMBIGUOUS
