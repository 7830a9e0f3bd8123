"""Risk: an idempotency key across tenants or payloads. A key is its owner's alone, and stands for one payload."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from tests.asgi.asgi_calls import Answer, call
from tests.asgi.effect_app import Effects, Make, caller

SECRET = b"the body of ada"


async def request(
    effects: Effects, *, method: str = "POST", path: str = "/effects", body: bytes = SECRET, **who: Any
) -> Answer:
    """One request with the key that everybody here uses."""
    return await call(effects.app, method, path, caller(key="8e03978e", **who), body)


@pytest.mark.parametrize(
    "other",
    [
        {"tenant": "other"},
        {"user": "eve"},
        {"user": "eve", "tenant": "other"},
        {"tenant": "acme "},
        {"tenant": "ACME"},
        {"path": "/effects/"},
        {"method": "PATCH"},
    ],
)
async def test_the_same_key_of_another_is_another_key(make: Make, other: dict[str, Any]) -> None:
    """Another tenant, user, route or method: it runs by itself, and no byte of the first answer is in its answer."""
    effects = await make()
    first = await request(effects)
    second = await request(effects, **other)
    assert (first.status, second.status) == (201, 201)
    assert second.header("idempotency-replayed") is None
    assert first.body not in second.body
    assert first.header("location") != second.header("location")
    assert await effects.count() == 2
    assert (await request(effects)).body == first.body, "and the first one's own is still there"


async def test_at_the_same_moment_each_tenant_gets_its_own(make: Make) -> None:
    """Ten tenants, five equal requests each, all at once: ten effects, and every answer is its tenant's."""
    effects = await make()
    tenants = [f"tenant-{number}-" for number in range(10)]
    answers = await asyncio.gather(*(request(effects, tenant=tenant) for tenant in tenants * 5))
    for tenant, answer in zip(tenants * 5, answers, strict=True):
        assert answer.body.endswith(tenant.encode())
    assert await effects.count() == 10


@pytest.mark.parametrize("body", [b"", SECRET + b" ", SECRET[:-1], SECRET.upper(), b"{}"])
async def test_the_same_key_with_another_payload_is_refused(make: Make, body: bytes) -> None:
    """422 without effect and without a byte of the first answer, however near the payload is."""
    effects = await make(secret=b"0123456789abcdef")
    first = await request(effects)
    second = await request(effects, body=body)
    assert second.status == 422
    assert first.body not in second.body
    assert (await effects.count(), effects.calls) == (1, 1)


async def test_the_table_holds_neither_key_nor_payload(make: Make) -> None:
    """Whoever reads the table finds digests: no key to send, no name, nothing of what was asked."""
    effects = await make()
    await request(effects)
    rows = repr(await effects.rows())
    for secret in ("8e03978e", "ada", "the body"):
        assert secret not in rows
