"""From what a checker found to what it answers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from ..history import Answer, Operation
from ..verdict import Validity, Verdict

__all__ = ["EXAMPLES", "counted", "judge", "served"]

EXAMPLES = 5
"""How many findings a verdict shows; how many there are, it says."""


def judge(
    checker: str,
    wrong: Sequence[str],
    *,
    looked_at: float,
    good: str,
    bad: str,
    nothing: str,
    counts: Mapping[str, float] | None = None,
) -> Verdict:
    """Invalid if anything is wrong, unknown if there was nothing to look at, else valid.

    Args:
        checker: its name.
        wrong: one sentence for each finding.
        looked_at: how much there was to look at.
        good, bad, nothing: the reason for each answer; `bad` is preceded by the number of findings.
        counts: the figures; `looked_at` and `wrong` are added.
    """
    figures = {**(counts or {}), "looked_at": looked_at, "wrong": len(wrong)}
    if wrong:
        return Verdict(checker, Validity.INVALID, f"{len(wrong)} {bad}", figures, tuple(wrong[:EXAMPLES]))
    if not looked_at:
        return Verdict(checker, Validity.UNKNOWN, nothing, figures)
    return Verdict(checker, Validity.VALID, good, figures)


def counted(number: int, word: str) -> str:
    """`1 fault`, `2 faults`."""
    return f"{number} {word}" if number == 1 else f"{number} {word}s"


def served(operation: Operation) -> bool:
    """Whether the system did its part: the operation is done, or the workload itself declined it.

    A transfer without funds and a key with another payload fail as well, but without class and code: nothing broke. And a caller
    who cancels (`error` is `CancelledError`) takes what it gets. What was never sent was not served.
    """
    if not operation.was_sent:
        return False
    if operation.answer is Answer.OK or operation.error == "CancelledError":
        return True
    return operation.answer is Answer.FAIL and operation.failure_class is None and operation.code is None
