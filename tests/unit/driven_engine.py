"""The engine with a clock and a shell that answers well unless told otherwise."""

from __future__ import annotations

from typing import Any

from holdfast.backoff import Backoff
from holdfast.decision import Allowance, RetryPolicy
from holdfast.outcome import Failure, FailureClass, Stage
from holdfast.transaction import Action, Do, Engine, Happening, Plan, Protection, What

EXPIRES_AT = 110.0
START = 100.0

POLICY = RetryPolicy(
    {
        FailureClass.CONTENTION: Allowance(3, Backoff(base=1, cap=8)),
        FailureClass.LOST: Allowance(2, Backoff(base=2, cap=8)),
        FailureClass.UNSENT: Allowance(2, Backoff(base=2, cap=8)),
        FailureClass.AMBIGUOUS: Allowance(2, Backoff(base=2, cap=8)),
    }
)

# What a shell answers when all goes well.
FINE: dict[Do, What] = {
    Do.BEGIN: What.BEGAN,
    Do.CLAIM: What.CLAIMED,
    Do.RUN: What.RETURNED,
    Do.STORE: What.STORED,
    Do.COMMIT: What.ACKNOWLEDGED,
    Do.ROLL_BACK: What.ROLLED_BACK,
    Do.DISCARD: What.DISCARDED,
    Do.SLEEP: What.SLEPT,
}


def failed(failure_class: FailureClass, stage: Stage = Stage.BODY, **rest: Any) -> Happening:
    return Happening(What.FAILED, failure=Failure(failure_class, stage, flavour="mariadb", code=1, **rest))


AMBIGUOUS = failed(FailureClass.AMBIGUOUS, Stage.COMMIT, connection_usable=False)
CONTENTION = failed(FailureClass.CONTENTION)
LOST = failed(FailureClass.LOST, connection_usable=False)
REFUSED = failed(FailureClass.UNSENT, Stage.CONNECT)
CANCELLED = Happening(
    What.FAILED, Failure(FailureClass.CANCELLED, Stage.BODY, connection_usable=False), interrupted=True
)


class Driven:
    """An engine with a clock: sleeping takes the time it says, everything else none unless told so."""

    def __init__(self, protection: Protection = Protection.KEY, *, narrate: bool = False, **settings: Any) -> None:
        settings.setdefault("fingerprint", "f")
        self.engine = Engine(Plan("transfer", EXPIRES_AT, protection, policy=POLICY, **settings), narrate=narrate)
        self.now = START
        self.done: list[Do] = []
        self.action = self._step(Happening(What.STARTED))

    def _step(self, happened: Happening) -> Action:
        self.action = self.engine.step(happened, self.now, 0.5)
        self.done.append(self.action.do)
        return self.action

    def tell(self, happened: Happening, *, after_s: float = 0.0) -> Action:
        """Answer the present action with `happened`."""
        self.now += after_s
        return self._step(happened)

    def until(self, *wanted: Do) -> Action:
        """Let everything go well until one of `wanted` is asked."""
        while self.action.do not in wanted:
            if self.action.do is Do.SLEEP:
                self.now += self.action.delay_s
            self._step(Happening(FINE[self.action.do]))
        return self.action

    def end(self) -> Action:
        """Let everything go well to the end."""
        return self.until(Do.RETURN, Do.RAISE)


def in_doubt(protection: Protection, **settings: Any) -> Driven:
    driven = Driven(protection, **settings)
    driven.until(Do.COMMIT)
    driven.tell(AMBIGUOUS)
    return driven
