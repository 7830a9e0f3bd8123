"""What every face notes for the request it works for: that something stands, and never something that was rolled back."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from sqlalchemy.orm import Session

from holdfast.effects import CURRENT, Effects
from holdfast.errors import HoldfastError
from tests.contract.faces import ONE_A_SERVER, Face, User, only

kind = only(ONE_A_SERVER)


def add_user(session: Session) -> None:
    """A write."""
    session.add(User(username="ada", age=30))


def refuse(session: Session) -> None:
    """A write that is rolled back."""
    add_user(session)
    session.flush()
    raise ValueError("no")


def noted(face: Face, call: Callable[[], Any]) -> bool:
    """What is noted for a request that does `call`."""
    effects = Effects()

    def begin() -> Any:
        CURRENT.set(effects)
        return call()

    async def awaited() -> None:
        await begin()

    token = CURRENT.set(None)
    try:
        face.wait(awaited() if face.kind.asynchronous else begin())
    except (HoldfastError, ValueError):
        pass
    finally:
        CURRENT.reset(token)
    return effects.applied


@pytest.mark.parametrize(("fn", "applied"), [(add_user, True), (refuse, False)])
def test_what_was_committed_is_noted(face: Face, fn: Callable[..., Any], applied: bool) -> None:
    """COMMIT counts, and ROLLBACK does not."""
    operation = face.db.transaction(face.function(fn))
    assert noted(face, operation) is applied


def test_a_conflict_leaves_nothing_to_note(face: Face) -> None:
    """A row that exists already: the save was rolled back."""
    face.save(User(username="ada", age=30))
    assert not noted(face, lambda: face.db.save(User(username="ada", age=30)))


def test_reading_leaves_nothing_to_note(face: Face) -> None:
    """A read-only transaction ends with ROLLBACK."""
    assert not noted(face, lambda: face.db.read(face.function(lambda session: session.get(User, 1))))


def test_what_a_key_had_committed_before_is_noted(face: Face) -> None:
    """The operation did not run, and its effect stands all the same."""
    operation = face.db.transaction(face.function(add_user)).keyed("k")
    assert noted(face, operation)
    assert noted(face, operation)


def test_outside_of_a_request_nothing_is_noted(face: Face) -> None:
    """Workers and scripts commit as before."""
    face.run(add_user)
    assert CURRENT.get() is None
