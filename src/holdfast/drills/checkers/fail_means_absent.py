"""What a caller was told is not done, is not there: catches every error that is classified as harmless and is not.

Looks at every operation whose effect has a name (`checkers.effects` says how they look) and that was answered `fail`, and
nothing else: where several asked for the same effect, all of them. Valid also if nobody was answered `fail`, for then nobody
was told a lie.
"""

from __future__ import annotations

from ..history import Answer, History
from ..verdict import Verdict
from .effects import FAMILIES, effects_of, not_read_back
from .judging import judge

__all__ = ["NAME", "applies", "check"]

NAME = "fail-means-absent"


def applies(history: History) -> bool:
    """Whether any operation has an effect that can be looked up."""
    return bool(history.names & FAMILIES.keys())


def check(history: History) -> Verdict:
    """Nothing that was answered `fail` is there. Unknown if nothing was read back."""
    effects = effects_of(history)
    asked = failed = 0
    wrong: list[str] = []
    for each in effects:
        asked += len(each.asked)
        for effect, operation in each.asked.items():
            if operation.answer is Answer.FAIL:
                failed += 1
                if each.found and effect in each.found:
                    wrong.append(f"{operation}, told {operation.error or 'fail'}: {effect} is in {each.final}")
    return judge(
        NAME,
        wrong,
        looked_at=asked if all(each.found is not None for each in effects) else 0,
        good=f"none of {failed} writes that failed is there",
        bad=f"of {failed} writes that were said not to be done are there",
        nothing=not_read_back(effects),
        counts={"failed": failed, "misclassified": len(wrong)},
    )
