"""What a checker answers: valid, invalid, or that the history cannot tell."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum

__all__ = ["Validity", "Verdict"]


class Validity(StrEnum):
    """The three answers."""

    VALID = "valid"
    INVALID = "invalid"
    UNKNOWN = "unknown"
    """Nothing wrong was seen, but too little happened to say that nothing is."""


@dataclass(frozen=True, slots=True)
class Verdict:
    """One checker's answer about one history.

    Attributes:
        checker: the checker's name.
        valid: its answer.
        reason: why, in one sentence for a person.
        counts: the figures behind it, by name.
        examples: what was found wrong, the first few, for a person to look up in the history.
    """

    checker: str
    valid: Validity
    reason: str
    counts: Mapping[str, float] = field(default_factory=dict)
    examples: tuple[str, ...] = ()
