"""schemathesis over the ledger's OpenAPI document: a short run of `python -m tests.ledger.fuzz`."""

from __future__ import annotations

from pathlib import Path

from tests.ledger.fuzz import UNLIMITED, fuzz
from tests.ledger.served import serve


async def test_document_and_service_agree(tmp_path: Path, seed: int) -> None:
    """Nothing is found; and a document that promises more than the service takes is."""
    async with serve(tmp_path, "sqlite:///fuzzed.db", UNLIMITED) as served:
        assert await served.open_accounts("1000000", "1000000") == [1, 2]
        options = ("--phases", "coverage,stateful", "--max-examples", "5", "--seed", str(seed))
        status, said = await fuzz(served, tmp_path, *options)
        assert (status, "No issues found" in said) == (0, True), said
        status, said = await fuzz(
            served, tmp_path, "--phases", "coverage", "--include-path", "/api/v1/users", planted=True
        )
        assert (status, "Schema-valid request rejected" in said) == (1, True), said
        lines = served.said()
    assert '"level":"ERROR"' not in lines
    assert '"status":500' not in lines
