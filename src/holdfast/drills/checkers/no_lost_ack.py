"""No acknowledged write is lost: what a caller was told is done is there in the end.

Looks at every operation whose effect has a name (`checkers.effects` says how they look) and that was answered `ok`. A server
that does not keep what it commits (`durable: false` in `meta`) loses writes that nobody else could keep; they are lost all the
same, and the reason says so.
"""

from __future__ import annotations

from ..history import Answer, History
from ..verdict import Verdict
from .effects import FAMILIES, effects_of, not_read_back
from .judging import judge

__all__ = ["NAME", "applies", "check"]

NAME = "no-lost-ack"


def applies(history: History) -> bool:
    """Whether any operation has an effect that can be looked up."""
    return bool(history.names & FAMILIES.keys())


def check(history: History) -> Verdict:
    """Every effect that was acknowledged is there. Unknown if nothing was acknowledged, or nothing read back."""
    effects = effects_of(history)
    acknowledged = 0
    wrong: list[str] = []
    for each in effects:
        if each.found is None:
            continue
        for effect, operation in each.asked.items():
            if operation.answer is Answer.OK:
                acknowledged += 1
                if effect not in each.found:
                    wrong.append(f"{operation}: {effect} is not in {each.final}")
    excuse = " (the server is set not to keep what it commits)" if history.meta.get("durable") is False else ""
    return judge(
        NAME,
        wrong,
        looked_at=acknowledged if all(each.found is not None for each in effects) else 0,
        good=f"all {acknowledged} acknowledged writes are there",
        bad=f"of {acknowledged} acknowledged writes are lost{excuse}",
        nothing=not_read_back(effects),
        counts={"acknowledged": acknowledged, "lost": len(wrong)},
    )
