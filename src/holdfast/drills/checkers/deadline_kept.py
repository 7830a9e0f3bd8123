"""Every operation has an answer by its deadline, and none hangs.

Looks at every operation with a `deadline`. It must have ended by then, and a grace on top: 250 ms, within which a statement that
is being cut comes back. An operation without an end hung, unless its process was killed.
"""

from __future__ import annotations

from ..estimates import percentile
from ..history import NS, History
from ..verdict import Verdict
from .judging import judge

__all__ = ["GRACE_S", "NAME", "applies", "check"]

NAME = "deadline-kept"

GRACE_S = 0.25
"""How much later than its deadline an operation may end."""


def applies(history: History) -> bool:
    """Whether any operation had a deadline."""
    return any(operation.deadline is not None for operation in history.operations)


def check(history: History, grace_s: float = GRACE_S) -> Verdict:
    """Every operation ended by its deadline and `grace_s` seconds. Unknown if none had a deadline."""
    grace = round(grace_s * NS)
    overshoots: list[int] = []
    wrong: list[str] = []
    late = hung = killed = 0
    for operation in history.operations:
        if operation.deadline is None:
            continue
        if operation.ended is None:
            killed += operation.killed
            # What was begun shortly before the end of the history could still have made it.
            if not operation.killed and history.end > operation.deadline + grace:
                hung += 1
                wrong.append(f"{operation} never ended")
            continue
        overshoot = max(0, operation.ended - operation.deadline)
        overshoots.append(overshoot)
        if overshoot > grace:
            late += 1
            wrong.append(f"{operation} ended {overshoot / NS:.3f} s after its deadline")
    worst = max(overshoots, default=0) / NS
    return judge(
        NAME,
        wrong,
        looked_at=len(overshoots) + hung,
        good=f"{len(overshoots)} operations ended by their deadline, the worst {worst:.3f} s after it",
        bad=f"of {len(overshoots) + hung} operations missed their deadline ({late} late, {hung} never ended)",
        nothing="no operation with a deadline ended",
        counts={
            "late": late,
            "hung": hung,
            "killed": killed,
            "overshoot_p999_s": percentile(overshoots, 99.9) / NS if overshoots else 0.0,
            "overshoot_max_s": worst,
        },
    )
