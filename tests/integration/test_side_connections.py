"""The connections beside the operations': what looks for servers and ends sessions waits for no server that says nothing."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest

from holdfast.clock import SYSTEM_CLOCK
from holdfast.dialects import Flavour
from holdfast.drills.servers import Server
from holdfast.ext.sqlalchemy import Database
from holdfast.ext.sqlalchemy.interrupt import Identity
from holdfast.failover import Ask
from holdfast.faultproxy import Latency, Phase, Timeout
from holdfast.testing import fault_proxy
from holdfast.testing.proxies import DatabaseProxy
from tests.integration.endpoints import SYNC, Case

ON_SERVERS = [case for case in SYNC if case.flavour in ("mariadb", "postgresql")]
PATIENCE_S = 30.0
"""How long a test waits for what must come: only a bug makes it last."""


@contextmanager
def in_front(request: pytest.FixtureRequest, case: Case) -> Iterator[tuple[DatabaseProxy, Database]]:
    """A proxy before the case's server, and a database behind it that has connected once."""
    server: Server = request.getfixturevalue(f"{case.flavour}_server")
    with fault_proxy(server.url(case.driver)) as proxy:
        db = Database(proxy.url)
        with db.engine.connect():
            pass
        try:
            yield proxy, db
        finally:
            proxy.heal()
            db.close()


def in_time(act: Callable[[], Any]) -> Any:
    """What `act` returns; it is called in a thread that nobody waits for longer than PATIENCE_S."""
    came: list[Any] = []
    thread = threading.Thread(target=lambda: came.append(act()), daemon=True)
    thread.start()
    thread.join(PATIENCE_S)
    assert came, "still waiting for a server that says nothing"
    return came[0]


@pytest.mark.parametrize("case", ON_SERVERS, ids=str)
def test_search_gives_up_on_a_server_that_says_nothing_after_the_login(
    request: pytest.FixtureRequest, case: Case
) -> None:
    """It had not even come to its own questions: SQLAlchemy's come first on a new engine."""
    with in_front(request, case) as (proxy, db):
        failover: Any = db._runtime.failover
        proxy.add(Timeout(), Phase.BEFORE)  # every statement: SQLAlchemy's questions, and what drivers set up
        began = SYSTEM_CLOCK.monotonic()
        proof = in_time(lambda: failover._ask(Ask(db._runtime.endpoint.host, 0.3)))
        assert not proof.writable
        assert SYSTEM_CLOCK.monotonic() - began < PATIENCE_S / 2
        proxy.heal()
        assert in_time(lambda: failover._ask(Ask(db._runtime.endpoint.host, PATIENCE_S))).writable


@pytest.mark.parametrize("case", ON_SERVERS, ids=str)
def test_killer_gives_up_on_a_server_that_says_nothing_after_the_login(
    request: pytest.FixtureRequest, case: Case
) -> None:
    """Who waits to hear of the session is told that it could not be ended."""
    with in_front(request, case) as (proxy, db):
        endpoint = db._runtime.endpoint
        proxy.add(Timeout(), Phase.BEFORE)
        told: list[bool] = []
        has_told = threading.Event()

        def tell(ended: bool) -> None:
            told.append(ended)
            has_told.set()

        endpoint.killer_of(endpoint.host).kill_soon(Identity(Flavour(case.flavour), 1, 1), tell)
        assert has_told.wait(PATIENCE_S), "still waiting for a server that says nothing"
        assert told == [False]


@pytest.mark.parametrize("case", [case for case in ON_SERVERS if case.flavour == "mariadb"], ids=str)
def test_node_that_has_to_catch_up_has_all_of_its_time(request: pytest.FixtureRequest, case: Case) -> None:
    """No limit of the login's stays on the connection: a proof may take longer."""
    with in_front(request, case) as (proxy, db):
        failover: Any = db._runtime.failover
        proxy.add(Latency(2.5), Phase.ANSWERED, on=lambda statement: b"wsrep_sync_wait" in statement.raw)
        assert in_time(lambda: failover._ask(Ask(db._runtime.endpoint.host, PATIENCE_S, caught_up=True))).writable
