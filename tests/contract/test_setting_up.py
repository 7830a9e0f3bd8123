"""What a new connection needs after its login counts as everything else: nobody waits for it beyond his deadline."""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Any

import pytest
from sqlalchemy import select

from holdfast.clock import SYSTEM_CLOCK
from holdfast.drills.servers import Server
from holdfast.errors import DeadlineExceeded, Unavailable
from holdfast.faultproxy import FaultProxy, Phase, Timeout
from tests.contract.faces import FACES, Face, Kind, only

kind = only([kind for kind in FACES if kind.server != "sqlite"])

SET_UP = {"mariadb": b"SET SESSION", "mysql": b"SET SESSION", "postgresql": b"client_connection_check_interval"}
SILENT_FOR_S = 20.0


def test_a_deadline_holds_while_a_new_connection_is_set_up(
    make_face: Callable[..., Face], kind: Kind, server: Server, caplog: pytest.LogCaptureFixture
) -> None:
    """The network falls silent between the login and the first answer."""
    protocol: Any = "postgresql" if kind.server == "postgresql" else "mysql"

    def one(session: Any) -> Any:
        return session.scalar(select(1))

    with FaultProxy((server.host, server.port), protocol) as proxy:
        face = make_face(url=server.url(kind.driver).replace(f":{server.port}/", f":{proxy.port}/"))
        assert face.read(one) == 1
        face.db._runtime.endpoint.retire()
        hole = proxy.add(Timeout(SILENT_FOR_S), Phase.BEFORE, on=lambda statement: SET_UP[kind.server] in statement.raw)
        began = SYSTEM_CLOCK.monotonic()
        with pytest.raises((DeadlineExceeded, Unavailable)):
            face.run(one, deadline=1.0, protect=False)
        assert SYSTEM_CLOCK.monotonic() - began < SILENT_FOR_S / 2
        hole.remove()
        assert face.read(one) == 1
        face.wait(face.db.close())
    assert [record.getMessage() for record in caplog.records if record.levelno >= logging.ERROR] == []
