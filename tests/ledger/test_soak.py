"""A short run of `python -m tests.ledger.soak`, and what it would complain about."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

from examples.ledger.demo.truth import Applied
from tests.ledger.soak import CLIENTS, GROWTH_MAX, Sample, Soak, soak


async def test_short_soak_has_no_complaints(tmp_path: Path, seed: int) -> None:
    """Every answer is the expected one, every save is there once, and descriptors stay."""
    result = await soak(tmp_path, 800, seed, clients=6)
    assert result.complaints() == []
    assert {kind for kind, _ in result.answers} >= {"read", "users", "transfers", "again", "taken", "reused", "nobody"}


def soaked(step: int = 0, descriptors: int = 0, **more: object) -> Soak:
    """What a soak could have found."""
    samples = [Sample(number, number, 10**8 + step * number, 50 + descriptors * number, 3) for number in range(50)]
    found = Soak(samples=samples, applied=Applied(Counter({"k": 1}), balanced=True), keys=["k"])
    for name, value in more.items():
        setattr(found, name, value)
    return found


def test_planted_wrongs_are_seen() -> None:
    """A leak of memory or of descriptors, saves that are lost, doubled or denied, and books that do not balance."""
    assert soaked().complaints() == []
    assert soaked(step=GROWTH_MAX // 25).complaints()[0].startswith("memory grew")
    assert soaked(descriptors=CLIENTS).complaints()[0].startswith("descriptors grew")
    assert soaked(keys=["k", "lost"]).complaints() == ["lost was applied 0 times"]
    assert soaked(applied=Applied(Counter({"k": 2}), balanced=True)).complaints() == ["k was applied 2 times"]
    assert soaked(denied=["k"]).complaints() == ["k was denied, and applied"]
    assert soaked(answers=Counter({("read", 200): 9, ("read", 503): 1})).complaints() == ["1 requests were put off"]
    assert soaked(applied=Applied(Counter({"k": 1}), balanced=False)).complaints() == ["the books do not balance"]
