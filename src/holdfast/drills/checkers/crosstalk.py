"""Nobody gets another's answer: what an echo says is what it was asked.

    echo    v {"nonce"}, ok v {"nonce"}

A connection that is given back in the middle of a statement hands its rows to the next caller, silently. A driver that notices
raises instead; then the operation fails, and that is well.
"""

from __future__ import annotations

from ..history import Answer, History
from ..verdict import Verdict
from .judging import judge

__all__ = ["NAME", "applies", "check"]

NAME = "crosstalk"


def applies(history: History) -> bool:
    """Whether anything was echoed."""
    return "echo" in history.names


def check(history: History) -> Verdict:
    """Every answered echo says its own nonce. Unknown if none was answered."""
    echoes = [echo for echo in history.named("echo") if echo.answer is Answer.OK]
    wrong = [
        f"{echo} asked {echo.value['nonce']} and got {echo.result.get('nonce')}"
        for echo in echoes
        if echo.result.get("nonce") != echo.value["nonce"]
    ]
    return judge(
        NAME,
        wrong,
        looked_at=len(echoes),
        good=f"all {len(echoes)} echoes said their own nonce",
        bad=f"of {len(echoes)} echoes got the answer to another question",
        nothing="no echo was answered",
        counts={"echoes": len(echoes)},
    )
