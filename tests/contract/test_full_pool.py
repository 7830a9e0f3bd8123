"""A pool whose connections are all in use. On SQLite alone: none of this depends on the server."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from holdfast.errors import BulkheadFull, report_of
from holdfast.ext.sqlalchemy import DatabaseSettings, PoolSettings
from tests.contract.conftest import fresh_tables
from tests.contract.faces import ON_SQLITE, Face, only, usernames

kind = only(ON_SQLITE)

FULL = DatabaseSettings(deadline=0.5, pool=PoolSettings(size=1, open_max=1))


@pytest.mark.parametrize("key", [None, "k"], ids=["unkeyed", "keyed"])
def test_an_operation_is_turned_away_while_it_could_not_be_done_any_more(
    make_face: Callable[..., Face], key: str | None
) -> None:
    """With a time to come again, and once: nothing tries it anew in the time that is left. Then all is as before."""
    face = make_face(FULL)
    fresh_tables(face)
    pool = face.engine.pool
    pool._held_s = 60.0
    taken = pool._do_get()
    with pytest.raises(BulkheadFull, match="connections to the database are in use") as caught:
        face.run(usernames, key=key)
    pool._do_return_conn(taken)

    report = report_of(caught.value)
    assert report is not None
    assert report.attempts == 1
    assert caught.value.retry_after_s
    assert face.run(usernames, key=key) == []
