"""Risk: replaying responses that hold secrets. Cookies and credentials are never kept, and who lost their rights gets nothing."""

from __future__ import annotations

import base64
import json
from typing import Any

from holdfast.asgi.answers import AnswerCodec, StoredAnswer
from holdfast.asgi.idempotency import Idempotency
from holdfast.asgi.keyed_request import KeyRules
from holdfast.ext.sqlalchemy.idempotency import SqlIdempotency
from tests.asgi.asgi_calls import Answer, call
from tests.asgi.effect_app import Effects, Make, Proven, caller

CANARY = "one-time-5ecret"


async def post(effects: Effects) -> Answer:
    """A request whose answer sets a cookie and repeats credentials."""
    query = f"cookie={CANARY}".encode()
    return await call(effects.app, "POST", "/effects", caller(key="k"), b"b", query_string=query)


async def test_a_replay_sets_no_cookie_and_repeats_no_credentials(make: Make) -> None:
    """The first answer has them, the repetition and the table do not; what is on the list is the same."""
    effects = await make()
    first, again = await post(effects), await post(effects)
    assert CANARY in repr(first.headers)
    assert "leaked" in repr(first.headers)
    assert {name for name, _ in again.headers} == {
        b"content-type",
        b"location",
        b"content-length",
        b"idempotency-replayed",
    }
    assert again.body == first.body
    assert CANARY not in repr(await effects.rows())
    assert "leaked" not in repr(await effects.rows())


async def test_who_was_revoked_gets_no_replay(make: Make) -> None:
    """Authentication stands outside: 403, and not a byte of what was answered when it was still allowed."""
    effects = await make()
    first = await post(effects)
    effects.app.revoked.add("ada")
    refused = await post(effects)
    assert refused.status == 403
    assert first.body not in refused.body
    assert refused.header("location") is None


async def test_a_body_with_a_one_time_secret_need_not_be_kept(make: Make) -> None:
    """With `keep_body=False` the effect happens once, and the repetition is told so without the secret."""
    effects = await make(rules=KeyRules(keep_body=False))
    first, again = await post(effects), await post(effects)
    assert (first.status, again.status) == (201, 409)
    assert first.body not in again.body
    assert first.body.decode() not in repr(await effects.rows())
    assert await effects.count() == 1


class Sealed:
    """A codec that hides what is kept; a real one encrypts."""

    def __init__(self) -> None:
        self._inner = AnswerCodec()

    def encode(self, result: Any) -> str:
        """As in `ResultCodec`."""
        return json.dumps(base64.b85encode(self._inner.encode(result).encode()).decode())

    def decode(self, text: str) -> StoredAnswer:
        """As in `ResultCodec`."""
        return self._inner.decode(base64.b85decode(json.loads(text)).decode())


async def test_what_is_kept_can_be_sealed(make: Make) -> None:
    """A codec around the answer's own: the table shows nothing, the replay is whole."""
    effects = await make()
    sealed = Proven(Idempotency(effects.idempotency.app, SqlIdempotency(effects.db, codec=Sealed())))
    answers = [await call(sealed, "POST", "/effects", caller(key="k"), b"b") for _ in range(2)]
    assert answers[0].body == answers[1].body
    assert answers[0].body.decode() not in repr(await effects.rows())
