"""Doubts in a cluster, where an insert that met nobody proves nothing."""

from __future__ import annotations

from typing import Any

import pytest

from holdfast.errors import Unavailable
from holdfast.operation import TOMBSTONE, Record
from holdfast.outcome import FailureClass, Outcome, Rejection
from holdfast.transaction import Do, Happening, Protection, What
from tests.unit.driven_engine import AMBIGUOUS, CONTENTION, failed, in_doubt

IN_CLUSTER = Happening(What.CLAIMED, conclusive=False)


@pytest.mark.parametrize("settings", [{"nested": True}, {"rerunnable": False}], ids=lambda s: next(iter(s)))
def test_in_a_cluster_only_a_committed_row_says_never(settings: dict[str, Any]) -> None:
    """An insert that met nobody is no proof while the ghost may live on another node: the row is committed, then it is one."""
    driven = in_doubt(Protection.KEY, **settings)
    assert driven.until(Do.CLAIM).settling
    driven.tell(IN_CLUSTER)
    assert driven.action.do is Do.COMMIT
    action = driven.end()
    assert isinstance(action.error, Unavailable)
    assert action.error.outcome is Outcome.NOT_COMMITTED
    assert driven.done.count(Do.RUN) == 1


def test_in_a_cluster_the_row_that_says_never_can_lose_against_the_ghost() -> None:
    """Its COMMIT collides with the ghost's; the next look finds the operation committed."""
    driven = in_doubt(Protection.KEY, nested=True)
    driven.until(Do.CLAIM)
    driven.tell(IN_CLUSTER)
    driven.tell(CONTENTION)
    driven.until(Do.CLAIM)
    driven.tell(Happening(What.FOUND, record=Record("f", 1, None)))
    assert driven.end().do is Do.RETURN


def test_a_tombstone_that_is_found_is_the_proof() -> None:
    """An earlier look has left it, and the answer to its COMMIT was lost."""
    driven = in_doubt(Protection.KEY, nested=True)
    driven.until(Do.CLAIM)
    driven.tell(IN_CLUSTER)
    driven.tell(AMBIGUOUS)
    driven.until(Do.CLAIM)
    driven.tell(Happening(What.FOUND, record=Record("f", TOMBSTONE, None)))
    action = driven.end()
    assert action.error is not None
    assert action.error.outcome is Outcome.NOT_COMMITTED


def test_in_a_cluster_a_rerun_that_fails_leaves_the_doubt() -> None:
    """The body of the rerun is refused for good, but the first attempt may still be committed on its node: that comes first."""
    driven = in_doubt(Protection.KEY)
    driven.until(Do.CLAIM)
    driven.tell(IN_CLUSTER)
    assert driven.action.do is Do.RUN
    driven.tell(failed(FailureClass.PERMANENT, rejection=Rejection.CHECK))
    assert driven.until(Do.CLAIM).settling
    driven.tell(Happening(What.FOUND, record=Record("f", 1, None)))
    assert driven.end().do is Do.RETURN
