"""One key, one effect, in real processes: many at once, over two processes, and killed between effect and answer."""

from __future__ import annotations

import asyncio
from pathlib import Path

import httpx2
import pytest

from examples.ledger.demo.database import database
from holdfast.drills.servers import Server
from tests.ledger.served import serve

AT_ONCE = 50


async def test_killed_between_effect_and_answer_the_retry_gets_the_stored_answer(tmp_path: Path) -> None:
    """SIGKILL when COMMIT is done and no byte has left: the next process answers from the key's row, and nothing moves twice."""
    url = "sqlite:///here.db"
    order = {"source_id": 1, "target_id": 2, "amount": "4", "reference": "killed"}
    async with serve(tmp_path, url, program=("-m", "tests.ledger.dying")) as first:
        assert await first.open_accounts("10", "0") == [1, 2]
        with pytest.raises(httpx2.TransportError):
            await first.post("transfers", order, "k", headers={"X-Die": "now"})
        assert await first.ended() == -9
    async with serve(tmp_path, url) as second:
        assert await second.applied("killed") == 1
        answers = [await second.post("transfers", order, "k") for _ in range(2)]
        assert [answer.status_code for answer in answers] == [201, 201]
        assert answers[0].headers["Idempotency-Replayed"] == "true"
        assert answers[0].content == answers[1].content
        assert answers[0].json()["amount"] == "4.00"
        assert await second.applied("killed") == 1
        assert (await second.get("accounts/1")).json()["balance"] == "6.00"


@pytest.mark.parametrize("flavour", ["mariadb"])
async def test_fifty_at_once_over_two_processes_have_one_effect(
    request: pytest.FixtureRequest, tmp_path: Path, flavour: str
) -> None:
    """Identical requests: one transfer, fifty equal answers; another tenant's, by the same key at the same time, has its own."""
    server: Server = request.getfixturevalue(f"{flavour}_server")
    driver = {"mariadb": "asyncmy", "postgresql": "asyncpg"}[flavour]
    async with (
        database(server.url(driver)) as url,
        serve(tmp_path, url) as one,
        serve(tmp_path, url) as other,
    ):
        orders = {}
        for tenant in ("north", "south"):
            source, target = await one.open_accounts("100", "0", tenant=tenant)
            orders[tenant] = {"source_id": source, "target_id": target, "amount": "4", "reference": "all"}
        answers = await asyncio.gather(
            *(
                process.post("transfers", orders[tenant], "k", tenant=tenant)
                for number in range(AT_ONCE)
                for tenant, process in (("north", (one, other)[number % 2]), ("south", (one, other)[number % 2]))
            )
        )
        for number, tenant in enumerate(orders):
            mine = answers[number::2]
            assert {(answer.status_code, answer.content) for answer in mine} == {(201, mine[0].content)}
            assert sum("Idempotency-Replayed" not in answer.headers for answer in mine) == 1
            assert await one.applied("all", tenant=tenant) == 1
        assert answers[0].json()["id"] != answers[1].json()["id"]
