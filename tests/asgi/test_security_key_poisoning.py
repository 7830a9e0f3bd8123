"""Risk: key poisoning, keys stuck "processing". However a request ends, the next one with its key gets an answer."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

import pytest

from holdfast.asgi.interface import Scope
from holdfast.deadline import within
from holdfast.errors import DeadlineExceeded, OutcomeUnknown
from tests.asgi.asgi_calls import Answer, Connection, call, http_scope
from tests.asgi.effect_app import Effects, Make, caller

ENDINGS: dict[str, Callable[[], BaseException]] = {
    "an error": lambda: ValueError("x"),
    "a timeout": TimeoutError,
    "a reset": ConnectionResetError,
    "cancelled": asyncio.CancelledError,
    "a deadline": lambda: DeadlineExceeded("x"),
    "an unknown outcome elsewhere": lambda: OutcomeUnknown("x"),
    "a group": lambda: ExceptionGroup("tasks", [ValueError("x")]),
}


async def post(effects: Effects) -> Answer:
    """The request."""
    return await call(effects.app, "POST", "/effects", caller(key="k"), b"b")


@pytest.mark.parametrize("ending", ENDINGS)
async def test_a_request_that_ends_in_the_middle_leaves_the_key_free(make: Make, ending: str) -> None:
    """Whatever the handler ends with after its effect: nothing stays, and the repetition runs instead of being told 409."""
    effects = await make()

    async def end(_scope: Scope) -> None:
        error = ENDINGS[ending]()
        raise error

    effects.after_effect = end
    broken = await post(effects)
    assert broken.error is not None or broken.status >= 500
    assert (await effects.count(), await effects.rows()) == (0, [])
    effects.after_effect = None
    assert (await post(effects)).status == 201
    assert await effects.count() == 1
    assert effects.idempotency._at_work == {}


async def test_a_client_that_leaves_in_the_middle_leaves_the_key_free(make: Make) -> None:
    """The request is cancelled where it is; the repetition runs."""
    effects = await make()
    there = asyncio.Event()

    async def hang(_scope: Scope) -> None:
        there.set()
        await asyncio.Event().wait()

    effects.after_effect = hang
    connection = Connection(http_scope("POST", "/effects", caller(key="k")))
    connection.push(b"b")
    task = connection.start(effects.app)
    await there.wait()
    task.cancel()
    await connection.answer()
    effects.after_effect = None
    assert (await post(effects)).status == 201
    assert await effects.count() == 1


async def test_a_handler_that_never_ends_is_cut_and_leaves_the_key_free(make: Make) -> None:
    """The deadline ends it with 504, and not the key's time to live."""
    effects = await make()

    async def hang(_scope: Scope) -> None:
        await asyncio.Event().wait()

    effects.after_effect = hang
    with within(0.2):
        late = await post(effects)
    assert (late.status, late.json["outcome"]) == (504, "not_committed")
    effects.after_effect = None
    assert (await post(effects)).status == 201
    assert await effects.count() == 1


async def test_a_guessed_key_spoils_nothing_for_its_owner(make: Make) -> None:
    """Who takes a key that another will use takes it in a scope of their own."""
    effects = await make()
    await call(effects.app, "POST", "/effects", caller("eve", key="k"), b"poison")
    assert (await post(effects)).status == 201
    assert await effects.count() == 2
