"""Nothing is there that nobody asked for.

Looks at every effect that has a name and was read back (`checkers.effects` says how they look). A phantom is a write of another
run, a corrupted value, or an operation that its worker did not log before acting.
"""

from __future__ import annotations

from ..history import History
from ..verdict import Verdict
from .effects import FAMILIES, effects_of, not_read_back
from .judging import judge

__all__ = ["NAME", "applies", "check"]

NAME = "no-phantom"


def applies(history: History) -> bool:
    """Whether any operation has an effect that can be looked up."""
    return bool(history.names & FAMILIES.keys())


def check(history: History) -> Verdict:
    """Every effect that is there was asked for. Unknown if nothing was read back, or nothing is there."""
    effects = effects_of(history)
    there = sum(len(each.found or ()) for each in effects)
    wrong = [
        f"{effect} is in {each.final}, and nobody asked for it"
        for each in effects
        for effect in each.found or ()
        if effect not in each.asked
    ]
    return judge(
        NAME,
        wrong,
        looked_at=there if all(each.found is not None for each in effects) else 0,
        good=f"all {there} writes that are there were asked for",
        bad=f"of {there} writes that are there were never asked for",
        nothing=not_read_back(effects),
        counts={"there": there, "phantoms": len(wrong)},
    )
