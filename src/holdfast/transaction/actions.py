"""What engine and shells say to each other: actions, happenings, and the plan an operation starts from."""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import Enum
from typing import TYPE_CHECKING, Protocol

from ..decision import RetryPolicy
from ..errors import ConfigurationError

if TYPE_CHECKING:
    from ..errors import HoldfastError
    from ..operation import Record
    from ..outcome import Failure

__all__ = [
    "ANSWERS",
    "DRAWS",
    "Action",
    "Do",
    "Happening",
    "Plan",
    "ProbeAnswer",
    "Protection",
    "TransactionBudget",
    "What",
]


class Protection(Enum):
    """How an ambiguous commit can be found out."""

    NONE = "none"
    """Not at all: it is reported as unknown."""
    KEY = "key"
    """By the key row, whose insert waits for the old transaction."""
    STATUS = "status"
    """By asking the server for the transaction's status."""


class ProbeAnswer(Enum):
    """What a server says of a transaction whose COMMIT was not answered."""

    COMMITTED = "committed"
    ABORTED = "aborted"
    IN_PROGRESS = "in_progress"
    UNKNOWN = "unknown"


class Do(Enum):
    """What a shell is asked to do."""

    __hash__ = object.__hash__  # enum's own is a Python function, and every step of the engine hashes two members

    BEGIN = "begin"
    CLAIM = "claim"
    RUN = "run"
    STORE = "store"
    COMMIT = "commit"
    ROLL_BACK = "roll_back"
    DISCARD = "discard"
    SLEEP = "sleep"
    AWAIT_SERVER = "await_server"
    PROBE = "probe"
    RETURN = "return"
    RAISE = "raise"


class What(Enum):
    """What happened, as a shell tells it."""

    __hash__ = object.__hash__

    STARTED = "started"
    BEGAN = "began"
    CLAIMED = "claimed"
    FOUND = "found"
    RETURNED = "returned"
    STORED = "stored"
    ACKNOWLEDGED = "acknowledged"
    ROLLED_BACK = "rolled_back"
    DISCARDED = "discarded"
    SLEPT = "slept"
    AWAITED = "awaited"
    ANSWERED = "answered"
    FAILED = "failed"


@dataclass(frozen=True, slots=True)
class Action:
    """The next thing to do.

    Attributes:
        do: what.
        delay_s: for `SLEEP`, seconds.
        kill: for `DISCARD`: end the connection's work on the server as well.
        settling: for `CLAIM`: the body will not run; the row is to say that the operation was not committed.
        claiming: for `COMMIT`: the key row goes with it.
        attempt: for `RETURN`: the attempt whose result it is.
        record: for `RETURN`: the row whose stored result to return instead.
        error: for `RAISE`: the error, or None for the exception that was caught.
    """

    do: Do
    delay_s: float = 0.0
    kill: bool = False
    settling: bool = False
    claiming: bool = False
    attempt: int = 0
    record: Record | None = None
    error: HoldfastError | None = None


@dataclass(frozen=True, slots=True)
class Happening:
    """What came of an action.

    Attributes:
        what: the kind.
        failure: for `FAILED`, the classified error.
        interrupted: for `FAILED`: the caller stopped the work (task cancelled, Ctrl-C); it must end now.
        record: for `FOUND`, the committed row under the key.
        answer: for `ANSWERED`, the server's word.
        conclusive: for `CLAIMED`: no other node can commit the key any more. In a cluster the insert alone does not say so.
        server_was_away: for `AWAITED`: whether it was, so that the failure was not the operation's own.
    """

    what: What
    failure: Failure | None = None
    interrupted: bool = False
    record: Record | None = None
    answer: ProbeAnswer | None = None
    conclusive: bool = True
    server_was_away: bool = False


class TransactionBudget(Protocol):
    """What the engine needs of a retry budget (`budget.RetryBudget` is one)."""

    def try_spend(self, cost: float, now: float) -> bool:
        """Take `cost` tokens if they are there."""

    def refund(self, cost: float, now: float) -> None:
        """Give back what a retry cost that succeeded."""

    def deposit(self, now: float) -> None:
        """Count one success."""


@dataclass(slots=True)  # freezing it would cost every operation 2 µs
class Plan:
    """What is fixed about an operation before it starts. Nobody changes it.

    Attributes:
        operation: its name.
        expires_at: its deadline, monotonic seconds.
        protection: how a doubt is settled.
        keyed: the caller gave the key: the result is stored, and a row found is a replay.
        fingerprint: what was asked for; compared with the row's. Empty without a key row.
        policy: which failures are retried.
        budget: the retry budget, or None.
        rerunnable: whether the body can run again (a `with` block cannot).
        nested: an outer retry layer is active: one attempt only, the doubt is settled all the same.
        scope, key: the key itself, handed out with `OutcomeUnknown` so that the caller can settle it.
        claims_late: where nothing is in doubt, the key row is inserted together with COMMIT, in one request. For keys that nobody
            else can have, so that nobody has to be kept from them.

    Raises:
        ConfigurationError: a keyed operation without a key row, one whose body a replay could not skip, or one that would run
            before it has claimed its key.
    """

    operation: str
    expires_at: float
    protection: Protection = Protection.NONE
    keyed: bool = False
    fingerprint: str = ""
    policy: RetryPolicy = field(default_factory=RetryPolicy)
    budget: TransactionBudget | None = None
    rerunnable: bool = True
    nested: bool = False
    scope: str | None = None
    key: str | None = field(default=None, repr=False)
    claims_late: bool = False

    def __post_init__(self) -> None:
        if self.keyed and (self.protection is not Protection.KEY or not self.rerunnable):
            raise ConfigurationError(
                f"{self.operation}: a caller's key needs the key row, and a function that need not run: a with block "
                "cannot be skipped"
            )
        if self.claims_late and (self.keyed or self.protection is not Protection.KEY):
            raise ConfigurationError(f"{self.operation}: only a key of Holdfast's own can be claimed with COMMIT")


ANSWERS: dict[Do | None, frozenset[What]] = {
    None: frozenset({What.STARTED}),
    Do.BEGIN: frozenset({What.BEGAN, What.FAILED}),
    Do.CLAIM: frozenset({What.CLAIMED, What.FOUND, What.FAILED}),
    Do.RUN: frozenset({What.RETURNED, What.FAILED}),
    Do.STORE: frozenset({What.STORED, What.FAILED}),
    Do.COMMIT: frozenset({What.ACKNOWLEDGED, What.FAILED}),
    Do.ROLL_BACK: frozenset({What.ROLLED_BACK, What.FAILED}),
    Do.DISCARD: frozenset({What.DISCARDED, What.FAILED}),
    Do.SLEEP: frozenset({What.SLEPT, What.FAILED}),
    Do.AWAIT_SERVER: frozenset({What.AWAITED, What.FAILED}),
    Do.PROBE: frozenset({What.ANSWERED, What.FAILED}),
    Do.RETURN: frozenset(),
    Do.RAISE: frozenset(),
}
"""Which happenings answer which action; nothing follows `RETURN` and `RAISE`."""

DRAWS = frozenset({What.FAILED, What.ROLLED_BACK, What.DISCARDED, What.AWAITED, What.ANSWERED})
"""Happenings after which there may be a delay to draw; the path where nothing fails draws nothing."""

# The ones that carry nothing are made once: an operation that meets no failure creates no object here but its `RETURN`.
BEGIN = Action(Do.BEGIN)
CLAIM = Action(Do.CLAIM)
CLAIM_TO_SETTLE = Action(Do.CLAIM, settling=True)
RUN = Action(Do.RUN)
STORE = Action(Do.STORE)
COMMIT = Action(Do.COMMIT)
CLAIM_AND_COMMIT = Action(Do.COMMIT, claiming=True)
ROLL_BACK = Action(Do.ROLL_BACK)
AWAIT_SERVER = Action(Do.AWAIT_SERVER)
PROBE = Action(Do.PROBE)

STARTED = Happening(What.STARTED)
BEGAN = Happening(What.BEGAN)
CLAIMED = Happening(What.CLAIMED)
CLAIMED_IN_CLUSTER = Happening(What.CLAIMED, conclusive=False)
RETURNED = Happening(What.RETURNED)
STORED = Happening(What.STORED)
ACKNOWLEDGED = Happening(What.ACKNOWLEDGED)
ROLLED_BACK = Happening(What.ROLLED_BACK)
DISCARDED = Happening(What.DISCARDED)
SLEPT = Happening(What.SLEPT)
