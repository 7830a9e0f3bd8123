"""Which after-commit hooks are taken, and which are called: those of work that stands."""

from __future__ import annotations

import functools
import inspect
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import AbstractContextManager, suppress
from typing import Any

import pytest
from sqlalchemy.orm import Session

from holdfast import subscribe
from holdfast.errors import UsageError
from holdfast.events import HookFailed
from holdfast.testing import RecordingHook
from tests.contract.faces import ON_SQLITE, Face, User, only, usernames

kind = only(ON_SQLITE)


def add(session: Session, username: str) -> None:
    """Insert a user."""
    session.add(User(username=username, age=30))
    session.flush()


async def coroutine(_: Any = None) -> None:
    """A hook that has to be awaited."""


def generator(_: Any = None) -> Iterator[None]:
    """A hook that does nothing when it is called."""
    yield


async def async_generator(_: Any = None) -> AsyncIterator[None]:
    """Another one."""
    yield


class Called:
    """An object whose call is a coroutine."""

    async def __call__(self, _: Any = None) -> None:
        """Do nothing."""


# -- what can be a hook ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("hook", "told"),
    [
        (coroutine, "coroutine function"),
        (functools.partial(coroutine), "coroutine function"),
        (Called(), "coroutine function"),
        (generator, "generator"),
        (async_generator, "generator"),
    ],
    ids=["coroutine", "partial", "object", "generator", "async-generator"],
)
@pytest.mark.parametrize("with_a_save", [False, True])
def test_a_hook_that_would_never_run_is_refused_where_it_is_given(
    face: Face, hook: Any, told: str, *, with_a_save: bool
) -> None:
    """After COMMIT nobody would hear of it. Coroutines are awaited where somebody can."""

    def body(session: Session) -> None:
        add(session, "ada")
        face.db.after_commit(hook)

    def save() -> None:
        if with_a_save:
            face.save(User(username="ada", age=30), after_commit=hook)
        else:
            face.run(body)

    if face.kind.asynchronous and told == "coroutine function":
        save()
        assert face.read(usernames) == ["ada"]
        return
    with pytest.raises(UsageError, match=told):
        save()
    assert face.read(usernames) == []


def test_a_hook_that_turns_out_to_be_a_coroutine_is_told_as_failed(face: Face) -> None:
    """A lambda does not say what it returns. Nobody awaits it there, so it is closed; the hooks after it run."""
    made: list[Any] = []
    called: list[str] = []

    async def welcome() -> None:
        called.append("welcome")

    def hidden() -> Any:
        made.append(welcome())
        return made[0]

    def body(session: Session) -> None:
        add(session, "ada")
        face.db.after_commit(hidden)
        face.db.after_commit(called.append, "second")

    recorded = RecordingHook()
    with subscribe(recorded):
        face.run(body)

    awaited = face.kind.asynchronous
    assert called == (["welcome", "second"] if awaited else ["second"])
    assert [event.error for event in recorded.of(HookFailed)] == ([] if awaited else ["UsageError"])
    assert inspect.getcoroutinestate(made[0]) == inspect.CORO_CLOSED
    assert face.read(usernames) == ["ada"]


# -- savepoints ------------------------------------------------------------------------------------------------------------

SAVEPOINTS: dict[str, Callable[[Session], AbstractContextManager[object]]] = {
    "begin_nested": lambda session: session.begin_nested(),
    "begin(nested)": lambda session: session.begin(nested=True),
    "connection": lambda session: session.connection().begin_nested(),
}


@pytest.mark.parametrize("how", SAVEPOINTS)
@pytest.mark.parametrize("written", [False, True])
def test_hooks_go_with_the_savepoint_they_were_registered_in(face: Face, how: str, *, written: bool) -> None:
    """However it was made, and also where nothing was sent in it yet: what did not happen is not told."""
    savepoint = SAVEPOINTS[how]
    called: list[str] = []

    def body(session: Session) -> None:
        face.db.after_commit(called.append, "first")
        with suppress(LookupError), savepoint(session):
            face.db.after_commit(called.append, "undone")
            if written:
                add(session, "undone")
            with savepoint(session):
                face.db.after_commit(called.append, "undone with the one around it")
            raise LookupError
        with savepoint(session):
            face.db.after_commit(called.append, "kept")
        add(session, "ada")

    face.run(body)
    assert called == ["first", "kept"]
    assert face.read(usernames) == ["ada"]
