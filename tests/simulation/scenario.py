"""One case: a call that meets its faults, whoever comes after it, and the dust settled."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field, replace
from typing import Self

from holdfast.backoff import Backoff
from holdfast.decision import Allowance, RetryPolicy
from holdfast.errors import Report, report_of
from holdfast.operation import OperationKey
from holdfast.outcome import FailureClass, Outcome
from holdfast.stream import Event, EventStream
from holdfast.transaction import AsyncShell, Plan, Protection, Shell

from .client import Client, Pool, Progress
from .faults import Schedule
from .ports import FakeAsyncPort, FakePort, ProcessClock, play, play_async
from .server import Connection, Row, Server, State
from .virtual_time import VirtualClock, VirtualTimeLoop

__all__ = ["DEADLINE_S", "POLICY", "Call", "Case", "Simulator", "Story"]

DEADLINE_S = 10.0
_SETTLED_S = 60.0
_STARTS_AT = 1000.0
_KEY = "order-1"

# Two attempts of each kind, so that two faults reach the end of every allowance as well as everything before it.
_CONTENTION = Allowance(2, Backoff(base=0.005, cap=0.5))
_CONNECTION = Allowance(2, Backoff(base=0.05, cap=5.0))
_OVERLOAD = Allowance(2, Backoff(base=1.0, cap=20.0))
POLICY = RetryPolicy(
    {
        FailureClass.CONTENTION: _CONTENTION,
        FailureClass.UNSENT: _CONNECTION,
        FailureClass.LOST: _CONNECTION,
        FailureClass.AMBIGUOUS: _CONNECTION,
        FailureClass.OVERLOAD: _OVERLOAD,
    }
)

_PROTECTIONS = {
    "keyed": Protection.KEY,
    "automatic": Protection.KEY,
    "late": Protection.KEY,
    "status": Protection.STATUS,
    "unprotected": Protection.NONE,
}

RIVALS = {
    "rival-commits": (State.COMMITTED, 3.0),
    "rival-aborts": (State.ROLLED_BACK, 3.0),
    "rival-stays": (State.COMMITTED, 30.0),
    "stranger": (State.COMMITTED, 3.0),
}
"""Another caller's transaction that holds the key from the start: how and when it ends. The stranger asks for other work."""

_OPTIONS = {"block", "broke", "nested", "outage", *RIVALS}


@dataclass(frozen=True, slots=True)
class Case:
    """What is played: `sync keyed: commit.1=lost-late begin.2=refused`.

    Attributes:
        shell: `sync` or `async`.
        protection: `keyed`, `automatic` (key), `late` (such a key, claimed with COMMIT), `status` or `unprotected`.
        options: `block` (the `with` form), `broke` (the retry budget is empty), `nested` (an outer layer retries), `outage`
            (a server that is lost has gone, and comes back after a while), and one of `RIVALS`.
        schedule: the faults.
    """

    shell: str
    protection: str
    options: frozenset[str] = frozenset()
    schedule: Schedule = field(default_factory=Schedule)

    @classmethod
    def parse(cls, text: str) -> Case:
        """The case that `text` spells."""
        setting, _, schedule = text.partition(":")
        shell, protection, *options = setting.split()
        if shell not in ("sync", "async") or protection not in _PROTECTIONS or not _OPTIONS.issuperset(options):
            raise ValueError(f"no such case: {text}")
        return cls(shell, protection, frozenset(options), Schedule.parse(schedule))

    def __str__(self) -> str:
        return f"{' '.join((self.shell, self.protection, *sorted(self.options)))}: {self.schedule}"

    def with_schedule(self, schedule: Schedule) -> Case:
        """The same setting with other faults."""
        return replace(self, schedule=schedule)

    @property
    def rival(self) -> str | None:
        """Which rival holds the key, if any."""
        return next((option for option in self.options if option in RIVALS), None)


class Purse:
    """A retry budget that writes down what happened to it. `tokens`: how many it has."""

    def __init__(self, tokens: float) -> None:
        self.granted = 0
        self.spent = 0.0
        self.refunded = 0.0
        self.deposits = 0
        self._tokens = tokens

    def try_spend(self, cost: float, now: float) -> bool:
        if cost > self._tokens:
            return False
        self._tokens -= cost
        self.spent += cost
        self.granted += 1
        return True

    def refund(self, cost: float, now: float) -> None:
        self.refunded += cost

    def deposit(self, now: float) -> None:
        self.deposits += 1


@dataclass(slots=True)
class Call:
    """One call, and how it ended.

    Attributes:
        name: what the server knows it by.
        answered: `value` is what it returned; otherwise it raised `error`, or its process crashed.
        ended_at: when, on the virtual clock.
        attempts: as the engine counted them.
        left_running: a transaction of its own was open when it ended that a KILL would have ended.
    """

    name: str
    client: Client
    purse: Purse
    events: list[Event]
    plan: Plan
    value: str | None = None
    error: BaseException | None = None
    ended_at: float = 0.0
    attempts: int = 0
    left_running: bool = False

    @property
    def crashed(self) -> bool:
        """Whether its process ended before it did."""
        return self.client.crashed

    @property
    def report(self) -> Report | None:
        """What rides along on its error."""
        return report_of(self.error) if self.error is not None else None

    @property
    def outcome(self) -> Outcome | None:
        """What its caller was told."""
        if self.crashed:
            return None
        if self.error is None:
            return Outcome.COMMITTED
        return self.report.outcome if self.report is not None else None


@dataclass(slots=True)
class Story:
    """What a case leaves behind.

    Attributes:
        calls: the call, and those that other processes made after a crash: all that faults were meant for.
        settling: who came at once, with the same key, when a call had ended without a plain answer.
        second: who came with the same key when everything had settled.
        stranger: who came last, with the same key and other arguments.
    """

    case: Case
    server: Server
    progress: Progress
    pools: list[Pool]
    calls: list[Call] = field(default_factory=list)
    settling: Call | None = None
    second: Call | None = None
    stranger: Call | None = None

    def everyone(self) -> list[Call]:
        """All calls, in order."""
        after = (self.settling, self.second, self.stranger)
        return [*self.calls, *(call for call in after if call is not None)]


def _draw() -> float:
    return 0.5


class Simulator:
    """Plays cases, one after the other, each from the same moment."""

    def __init__(self) -> None:
        self._clock = VirtualClock()
        self._loop = VirtualTimeLoop(self._clock)

    def play(self, case: Case) -> Story:
        """Play `case` to its end."""
        self._clock.now = _STARTS_AT
        return _Play(case, self._clock, self._loop).run()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._loop.close()


class _Play:
    def __init__(self, case: Case, clock: VirtualClock, loop: VirtualTimeLoop) -> None:
        self.case = case
        self.clock = clock
        self.loop = loop
        self.server = Server(clock)
        self.progress = Progress(case.schedule)
        self.story = Story(case, self.server, self.progress, [])

    def run(self) -> Story:
        story, case = self.story, self.case
        if case.rival is not None:
            self._let_rival_begin(case.rival)
        call = self._call("first", self._new_process())
        story.calls.append(call)
        has_key = case.protection == "keyed"
        while has_key and call.crashed:
            call = self._call(f"process {len(story.calls) + 1}", self._new_process())
            story.calls.append(call)
        if call.outcome is Outcome.UNKNOWN and call.plan.key is not None:
            story.settling = self._call("settling", self._new_process(), keyed=True, faults=False)
        self.clock.advance(_SETTLED_S)
        self.server.settle()
        if story.settling is not None or (has_key and case.rival != "stranger"):
            story.second = self._call("second", self._new_process(), keyed=True, faults=False)
            story.stranger = self._call("stranger", self._new_process(), keyed=True, faults=False, fingerprint="other")
        return story

    def _new_process(self) -> Pool:
        pool = Pool()
        self.story.pools.append(pool)
        return pool

    def _let_rival_begin(self, rival: str) -> None:
        state, after_s = RIVALS[rival]
        connection = Connection()
        transaction = self.server.begin(connection, "rival")
        fingerprint = "other" if rival == "stranger" else "same"
        self.server.insert(connection, Row(_KEY, fingerprint, "rival", 1, "receipt 0"))
        transaction.halves = ["debit", "credit"]
        transaction.receipt = "receipt 0"
        self.server.orphan(transaction, state, after_s, killable=False)

    def _call(
        self, name: str, pool: Pool, *, keyed: bool = False, faults: bool = True, fingerprint: str = "same"
    ) -> Call:
        case = self.case
        protection = Protection.KEY if keyed else _PROTECTIONS[case.protection]
        has_key = protection is Protection.KEY
        block = "block" in case.options and faults
        purse = Purse(0.0 if "broke" in case.options and faults else 1000.0)
        plan = Plan(
            "transfer",
            self.clock.now + DEADLINE_S,
            protection=protection,
            keyed=keyed or case.protection == "keyed",
            claims_late=case.protection == "late" and not keyed,
            fingerprint=fingerprint if has_key else "",
            policy=POLICY,
            budget=purse,
            rerunnable=not block,
            nested="nested" in case.options and faults,
            key=_KEY if has_key else None,
        )
        client = Client(
            name,
            self.server,
            pool,
            self.clock,
            self.progress if faults else Progress(Schedule()),
            expires_at=plan.expires_at,
            key=OperationKey("transfer", _KEY) if has_key else None,
            fingerprint=fingerprint,
            block=block,
            outages="outage" in case.options,
        )
        if not faults:
            # Receipts stay distinct in the whole story.
            client._progress.receipts = 100 * (len(self.story.pools) + 1)
        events: list[Event] = []
        call = Call(name, client, purse, events, plan)
        stream = EventStream()
        stream.subscribe(events.append)
        if case.shell == "async":
            self.loop.run_until_complete(_run_in_task(call, stream))
        else:
            _run(call, stream)
        call.ended_at = self.clock.now
        call.left_running = any(
            transaction.state is State.OPEN and transaction.killable for transaction in client.transactions
        )
        return call


def _run(call: Call, stream: EventStream) -> None:
    client = call.client
    shell: Shell[str] = Shell(call.plan, FakePort(client), clock=ProcessClock(client), random=_draw, events=stream)
    try:
        if call.plan.rerunnable:
            call.value = shell.run()
        else:
            shell.enter()
            raised: BaseException | None = None
            try:
                play(client.clock, client.body(), client.expires_at)
            except BaseException as error:
                raised = error
            call.value = shell.leave(raised)
    except BaseException as error:
        call.error = error
    call.attempts = shell._engine.attempts


async def _run_in_task(call: Call, stream: EventStream) -> None:
    client = call.client
    port = FakeAsyncPort(client)
    shell: AsyncShell[str] = AsyncShell(call.plan, port, clock=ProcessClock(client), random=_draw, events=stream)
    try:
        if call.plan.rerunnable:
            call.value = await shell.run()
        else:
            await shell.enter()
            raised: BaseException | None = None
            try:
                async with asyncio.timeout_at(client.expires_at):
                    await play_async(client.body())
            except BaseException as error:
                raised = error
            call.value = await shell.leave(raised)
    except BaseException as error:
        call.error = error
    call.attempts = shell._engine.attempts
