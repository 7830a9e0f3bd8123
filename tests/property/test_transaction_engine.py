"""The engine under any answers at all, and the whole of it under long schedules of faults."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, precondition, rule

from holdfast.backoff import Backoff
from holdfast.budget import RetryBudget
from holdfast.decision import Allowance, RetryPolicy
from holdfast.errors import NotCommitted
from holdfast.operation import Record
from holdfast.outcome import Failure, FailureClass, Outcome, Stage
from holdfast.transaction import Action, Do, Engine, EngineMisused, Happening, Plan, ProbeAnswer, Protection, What
from holdfast.transaction.actions import ANSWERS
from tests.simulation.checks import complaints
from tests.simulation.faults import FAULTS, Fault, Schedule
from tests.simulation.scenario import Case, Simulator

EXPIRES_AT = 10.0

POLICY = RetryPolicy(
    dict.fromkeys(
        [FailureClass.CONTENTION, FailureClass.LOST, FailureClass.UNSENT, FailureClass.AMBIGUOUS],
        Allowance(2, Backoff(base=0.1, cap=1.0)),
    )
)

_BEFORE_COMMIT = [failure_class for failure_class in FailureClass if failure_class is not FailureClass.AMBIGUOUS]
_MAY_BE_GONE = {FailureClass.UNSENT, FailureClass.LOST, FailureClass.AMBIGUOUS, FailureClass.ROLE_CHANGED}
_STAGES = {Do.BEGIN: [Stage.CONNECT, Stage.BEGIN], Do.COMMIT: [Stage.COMMIT], Do.PROBE: [Stage.CONNECT]}

_WAYS = [
    (Protection.KEY, True, False),
    (Protection.KEY, False, True),
    *((protection, False, False) for protection in Protection),
]
"""Protection, whether the caller gave the key, whether it is claimed with COMMIT."""

plans = st.sampled_from(_WAYS).flatmap(
    lambda way: st.builds(
        Plan,
        st.just("transfer"),
        st.just(EXPIRES_AT),
        st.just(way[0]),
        st.just(way[1]),
        st.just("f"),
        st.just(POLICY),
        st.sampled_from([None, None, 0.0, 5.0]).map(
            lambda tokens: tokens if tokens is None else RetryBudget(0.0, tokens, 1.0)
        ),
        st.just(True) if way[1] else st.booleans(),
        st.booleans(),
        claims_late=st.just(way[2]),
    )
)


@st.composite
def answers(draw: st.DrawFn, asked: Do, attempts: int) -> Happening:
    """Anything that a shell may answer when `asked`."""
    # Failures are the minority, or hardly anything would get as far as a COMMIT; there they are the matter of interest.
    fails = draw(st.integers(0, 1 if asked is Do.COMMIT else 3)) == 1
    what = draw(st.sampled_from(sorted((what for what in ANSWERS[asked] if (what is What.FAILED) == fails), key=str)))
    if what is What.FOUND:
        return Happening(what, record=Record(draw(st.sampled_from("fg")), draw(st.integers(0, attempts)), "1"))
    if what is What.ANSWERED:
        return Happening(what, answer=draw(st.sampled_from(ProbeAnswer)))
    if what is What.AWAITED:
        return Happening(what, server_was_away=draw(st.booleans()))
    if what is What.CLAIMED:
        return Happening(what, conclusive=draw(st.booleans()))
    if what is not What.FAILED:
        return Happening(what)
    interrupted = draw(st.integers(0, 9)) == 1
    at_commit = [FailureClass.AMBIGUOUS] * len(_BEFORE_COMMIT) + _BEFORE_COMMIT
    failure_class = draw(st.sampled_from(at_commit if asked is Do.COMMIT else _BEFORE_COMMIT))
    failure = Failure(
        failure_class,
        draw(st.sampled_from(_STAGES.get(asked, [Stage.BODY]))),
        "mariadb",
        1,
        connection_usable=draw(st.booleans()) and not interrupted,
        server_in_doubt=failure_class in _MAY_BE_GONE and draw(st.booleans()),
    )
    return Happening(what, failure, interrupted)


class Witness:
    """Watches a conversation and knows what must hold of it."""

    def __init__(self, plan: Plan) -> None:
        self.plan = plan
        self.holds = False  # a connection, as the shell would see it
        self.doubt = False
        self.claimed = False
        self.settling = False
        self.acknowledged = False
        self.runs = 0
        self.outages = 0
        self.interrupted = False

    def asked(self, action: Action, now: float) -> None:
        if action.do in {Do.BEGIN, Do.SLEEP, Do.AWAIT_SERVER, Do.PROBE, Do.RETURN, Do.RAISE}:
            assert not self.holds, "a connection is held"
        if action.do in {Do.CLAIM, Do.RUN, Do.STORE, Do.COMMIT, Do.ROLL_BACK, Do.DISCARD}:
            assert self.holds, "there is no connection"
        if action.do in {Do.BEGIN, Do.RUN, Do.COMMIT, Do.PROBE}:
            assert now < self.plan.expires_at, "the deadline has passed"
        if action.do in {Do.RUN, Do.COMMIT}:
            late = self.plan.claims_late
            # With a claim that leaves the doubt open, the row that is committed with this collides with the other's.
            assert not self.doubt or self.claimed, "an earlier COMMIT is not settled yet"
            assert action.claiming == (late and not self.claimed and action.do is Do.COMMIT), "one claim an attempt"
        self.settling |= action.settling
        if self.interrupted:
            assert action.do in {Do.DISCARD, Do.RAISE}, "the caller has gone"
        if action.do is Do.RUN:
            self.runs += 1
            once = self.plan.nested or not self.plan.rerunnable
            # What an outage cost was nobody's own failure: the gate paces it, and no attempt is taken for it.
            assert self.runs <= (1 if once else self.plan.policy.attempts_max + self.outages), "too many attempts"

    def told(self, asked: Do, happened: Happening) -> None:
        failure = happened.failure
        if asked is Do.BEGIN:
            self.holds = failure is None or failure.stage is not Stage.CONNECT
            self.claimed = False
        elif asked is Do.DISCARD or (asked is Do.ROLL_BACK and failure is None):
            self.holds = False
        self.outages += happened.server_was_away
        if happened.what is What.ACKNOWLEDGED:
            # Whatever is still on its way collides with the row that is committed now: a result, or a tombstone.
            self.holds, self.doubt, self.acknowledged = False, False, not self.settling
        if failure is not None:
            self.interrupted |= happened.interrupted
            self.doubt |= failure.failure_class is FailureClass.AMBIGUOUS
            if asked is Do.COMMIT and failure.stage is Stage.CONNECT:
                self.holds = False
        if happened.what is What.FOUND or happened.what is What.CLAIMED:
            self.claimed = True
            open_still = happened.what is What.CLAIMED and (self.plan.claims_late or not happened.conclusive)
            self.doubt = self.doubt and open_still
            self.acknowledged |= happened.record is not None and happened.record.fingerprint == self.plan.fingerprint
        if happened.answer in (ProbeAnswer.COMMITTED, ProbeAnswer.ABORTED):
            self.doubt = False
            self.acknowledged |= happened.answer is ProbeAnswer.COMMITTED

    def ended(self, action: Action, outcome: Outcome | None) -> None:
        truth = Outcome.COMMITTED if self.acknowledged else Outcome.UNKNOWN if self.doubt else Outcome.NOT_COMMITTED
        assert outcome is truth
        assert (action.do is Do.RETURN) == (truth is Outcome.COMMITTED and not self.interrupted)
        if action.error is not None:
            assert isinstance(action.error, NotCommitted) == (truth is Outcome.NOT_COMMITTED)


class Conversation(RuleBasedStateMachine):
    """A shell that answers anything at all, at any time."""

    @initialize(plan=plans)
    def begin_first(self, plan: Plan) -> None:
        self.begin(plan)

    def begin(self, plan: Plan) -> None:
        self.engine, self.witness, self.now = Engine(plan, narrate=True), Witness(plan), 0.0
        self.action = self.engine.step(Happening(What.STARTED), self.now, 0.5)
        self.witness.asked(self.action, self.now)

    @property
    def is_over(self) -> bool:
        return self.action.do in {Do.RETURN, Do.RAISE}

    @precondition(lambda self: not self.is_over)
    @rule(
        data=st.data(),
        seconds=st.sampled_from([0.0] * 12 + [0.001, 0.5, 4.0, 11.0]),
        number=st.sampled_from([0.0, 0.5, 0.999]),
    )
    def answer(self, data: st.DataObject, seconds: float, number: float) -> None:
        self.tell(data.draw(answers(self.action.do, self.engine.attempts), label=self.action.do.value), seconds, number)

    @precondition(lambda self: self.is_over)
    @rule(plan=plans)
    def begin_another(self, plan: Plan) -> None:
        """An operation that has ended is told nothing more."""
        with pytest.raises(EngineMisused):
            self.engine.step(Happening(What.SLEPT), self.now, 0.5)
        self.begin(plan)

    def tell(self, happened: Happening, seconds: float, number: float) -> None:
        self.now += self.action.delay_s + seconds
        self.witness.told(self.action.do, happened)
        self.action = self.engine.step(happened, self.now, number)
        self.witness.asked(self.action, self.now)
        if self.is_over:
            self.witness.ended(self.action, self.engine.outcome)

    def teardown(self) -> None:
        """However far it got, it ends: when nothing works any more, at the deadline."""
        if not hasattr(self, "action"):
            return
        for _ in range(1_000):
            if self.is_over:
                return
            asked = self.action.do
            if What.FAILED in ANSWERS[asked]:
                happened = Happening(What.FAILED, Failure(FailureClass.LOST, Stage.BODY, connection_usable=False))
            else:
                happened = Happening(next(iter(ANSWERS[asked])))
            self.tell(happened, 0.01, 0.5)
        pytest.fail("it did not end")


TestWhateverAShellAnswers = Conversation.TestCase
TestWhateverAShellAnswers.settings = settings(
    max_examples=100, stateful_step_count=50, deadline=None, suppress_health_check=[HealthCheck.too_slow]
)


@pytest.fixture(scope="module")
def simulator() -> Iterator[Simulator]:
    """One event loop for all examples."""
    with Simulator() as simulator:
        yield simulator


def _places() -> list[tuple[str, Fault]]:
    return [(step, fault) for step, faults in FAULTS.items() for fault in faults]


schedules = st.dictionaries(
    st.tuples(st.sampled_from(sorted(FAULTS)), st.integers(1, 5)), st.integers(0, 99), min_size=3, max_size=10
).map(
    lambda chosen: Schedule(
        tuple((step, str(which), FAULTS[step][number % len(FAULTS[step])]) for (step, which), number in chosen.items())
    )
)


@pytest.mark.parametrize("shell", ["sync", "async"])
@given(setting=st.sampled_from(["keyed", "automatic", "status", "unprotected", "automatic block"]), schedule=schedules)
@settings(max_examples=400, suppress_health_check=[HealthCheck.too_slow])
def test_long_schedules_break_no_promise(shell: str, setting: str, schedule: Schedule, simulator: Simulator) -> None:
    """Beyond the two faults that are enumerated: up to ten, anywhere, and the checks are the same."""
    case = Case.parse(f"{shell} {setting}").with_schedule(schedule)
    assert complaints(simulator.play(case)) == []
