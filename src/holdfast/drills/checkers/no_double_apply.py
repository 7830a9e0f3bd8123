"""No write is applied twice: no effect is there more than once, whatever its caller was told.

Looks at every effect that has a name and was read back (`checkers.effects` says how they look). The table must not have a unique
key on the name, or the database would hide what is to be found. Jepsen's `set` and `total-queue` let duplicates pass, so this one
counts them itself, as a multiset.
"""

from __future__ import annotations

from ..history import History
from ..verdict import Verdict
from .effects import FAMILIES, effects_of, not_read_back
from .judging import judge

__all__ = ["NAME", "applies", "check"]

NAME = "no-double-apply"


def applies(history: History) -> bool:
    """Whether any operation has an effect that can be looked up."""
    return bool(history.names & FAMILIES.keys())


def check(history: History) -> Verdict:
    """No effect is there twice. Unknown if nothing was read back, or nothing is there."""
    effects = effects_of(history)
    there = 0
    wrong: list[str] = []
    for each in effects:
        there += len(each.found or ())
        for effect, times in (each.found or {}).items():
            if times > 1:
                operation = each.asked.get(effect)
                wrong.append(f"{operation or 'nobody'}: {effect} is in {each.final} {times} times")
    return judge(
        NAME,
        wrong,
        looked_at=there if all(each.found is not None for each in effects) else 0,
        good=f"each of {there} writes is there once",
        bad=f"of {there} writes are there more than once",
        nothing=not_read_back(effects),
        counts={"there": there, "doubled": len(wrong)},
    )
