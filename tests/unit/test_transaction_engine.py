"""The engine, asked directly: what happened goes in, what to do next comes out."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from holdfast.budget import RetryBudget
from holdfast.clock import SYSTEM_CLOCK
from holdfast.errors import (
    ConfigurationError,
    Conflict,
    Contended,
    DeadlineExceeded,
    InProgress,
    KeyReused,
    Overloaded,
    StorageExhausted,
    Unavailable,
)
from holdfast.events import (
    AttemptFailed,
    CommitResolved,
    OperationEnded,
    RetryDenied,
    RetryScheduled,
)
from holdfast.operation import Record
from holdfast.outcome import Failure, FailureClass, Outcome, Rejection, Stage
from holdfast.stream import Event, EventStream
from holdfast.transaction import (
    Action,
    Do,
    EngineMisused,
    Happening,
    Plan,
    ProbeAnswer,
    Protection,
    Shell,
    What,
)
from tests.unit.driven_engine import (
    AMBIGUOUS,
    CANCELLED,
    CONTENTION,
    EXPIRES_AT,
    FINE,
    LOST,
    POLICY,
    REFUSED,
    START,
    Driven,
    failed,
    in_doubt,
)

FORWARD = [Do.BEGIN, Do.RUN, Do.COMMIT, Do.RETURN]


# -- the way forward ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("protection", "keyed", "path"),
    [
        (Protection.NONE, False, FORWARD),
        (Protection.STATUS, False, FORWARD),
        (Protection.KEY, False, [Do.BEGIN, Do.CLAIM, Do.RUN, Do.COMMIT, Do.RETURN]),
        (Protection.KEY, True, [Do.BEGIN, Do.CLAIM, Do.RUN, Do.STORE, Do.COMMIT, Do.RETURN]),
    ],
)
def test_the_way_forward(protection: Protection, keyed: bool, path: list[Do]) -> None:
    """Without a failure each protection takes its own steps, once."""
    driven = Driven(protection, keyed=keyed)
    action = driven.end()
    assert driven.done == path
    assert (action.attempt, action.record, driven.engine.outcome) == (1, None, Outcome.COMMITTED)


def test_an_answer_to_another_question_is_refused() -> None:
    """A shell that reports what it was not asked for has a bug, and hears of it."""
    with pytest.raises(EngineMisused, match=r"asked to Do\.BEGIN, told What\.STORED"):
        Driven().tell(Happening(What.STORED))


@pytest.mark.parametrize("settings", [{"protection": Protection.STATUS}, {"rerunnable": False}])
def test_a_callers_key_needs_its_row_and_a_body_to_skip(settings: dict[str, Any]) -> None:
    """A plan that could not replay is refused when it is made."""
    with pytest.raises(ConfigurationError, match="transfer: a caller's key needs the key row"):
        Plan("transfer", EXPIRES_AT, **{"protection": Protection.KEY, "keyed": True, **settings})


# -- failures before COMMIT ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("at", "happened", "cleaning"),
    [
        (Do.BEGIN, REFUSED, []),
        (Do.BEGIN, LOST, [Do.DISCARD]),
        (Do.CLAIM, CONTENTION, [Do.ROLL_BACK]),
        (Do.CLAIM, LOST, [Do.DISCARD]),
        (Do.RUN, CONTENTION, [Do.ROLL_BACK]),
        (Do.RUN, LOST, [Do.DISCARD]),
        (Do.COMMIT, CONTENTION, [Do.ROLL_BACK]),
    ],
)
def test_a_failed_attempt_is_cleaned_up_and_the_whole_unit_runs_again(
    at: Do, happened: Happening, cleaning: list[Do]
) -> None:
    """ROLLBACK where the connection is in order, otherwise the connection is closed; then sleep, and again from BEGIN."""
    driven = Driven()
    driven.until(at)
    before = len(driven.done)
    driven.tell(happened)
    driven.end()
    path = [Do.BEGIN, Do.CLAIM, Do.RUN, Do.COMMIT, Do.RETURN]
    assert driven.done[before:] == [*cleaning, Do.SLEEP, *path]
    assert driven.engine.attempts == 2


def test_a_closed_connection_is_ended_on_the_server_too() -> None:
    """What the server still does for it holds locks."""
    driven = Driven()
    driven.until(Do.RUN)
    assert driven.tell(LOST) == Action(Do.DISCARD, kill=True)


def test_a_rollback_that_fails_closes_the_connection_and_changes_nothing_else() -> None:
    """The first failure is the one that counts."""
    driven = Driven()
    driven.until(Do.RUN)
    driven.tell(failed(FailureClass.PERMANENT, rejection=Rejection.DUPLICATE))
    assert driven.tell(LOST) == Action(Do.DISCARD, kill=True)
    assert isinstance(driven.end().error, Conflict)


@pytest.mark.parametrize(
    ("happened", "error", "attempts"),
    [
        (CONTENTION, Contended, 3),
        (LOST, Unavailable, 2),
        (failed(FailureClass.OVERLOAD), Overloaded, 1),
        (failed(FailureClass.EXHAUSTED), StorageExhausted, 1),
        (failed(FailureClass.PERMANENT, rejection=Rejection.DUPLICATE), Conflict, 1),
        (failed(FailureClass.CANCELLED), DeadlineExceeded, 1),
    ],
)
def test_a_failure_that_stays_is_raised_when_its_attempts_are_used_up(
    happened: Happening, error: type[Exception], attempts: int
) -> None:
    """Each class has its own number of attempts and its own error."""
    driven = Driven(Protection.NONE)
    while driven.until(Do.RUN, Do.RAISE).do is Do.RUN:
        driven.tell(happened)
    assert isinstance(driven.action.error, error)
    assert (driven.engine.attempts, driven.engine.outcome) == (attempts, Outcome.NOT_COMMITTED)


def test_classes_with_one_allowance_share_its_attempts() -> None:
    """A refused connection and a lost one are the same outage: together they have its attempts, not each."""
    driven = Driven(Protection.NONE)
    driven.tell(REFUSED)
    driven.until(Do.RUN)
    driven.tell(LOST)
    assert isinstance(driven.end().error, Unavailable)
    assert driven.engine.attempts == 2
    assert POLICY.attempts_max == 1 + 2 + 1


def test_what_the_body_raised_is_raised() -> None:
    """An exception of the caller's own is not dressed up: the shell raises what it caught."""
    driven = Driven(Protection.NONE)
    driven.until(Do.RUN)
    driven.tell(Happening(What.FAILED, Failure(FailureClass.PERMANENT, Stage.BODY, name="ValueError")))
    assert driven.end() == Action(Do.RAISE, error=None)
    assert driven.engine.outcome is Outcome.NOT_COMMITTED


def test_a_block_does_not_run_twice() -> None:
    """The body of a with statement ran once: a failure before it is retried, one after it is not."""
    driven = Driven(Protection.NONE, rerunnable=False)
    driven.tell(REFUSED)
    driven.until(Do.RUN)
    driven.tell(CONTENTION)
    assert isinstance(driven.end().error, Contended)
    assert "can the body run again? no" in driven.engine.report(driven.now).explanation


# -- interruption -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("at", [Do.BEGIN, Do.CLAIM, Do.RUN, Do.STORE])
def test_an_interruption_closes_the_connection_and_ends_it(at: Do) -> None:
    """Whoever was stopped ends at once, with the interruption itself, and nothing was applied."""
    driven = Driven(keyed=True)
    driven.until(at)
    assert driven.tell(CANCELLED) == Action(Do.DISCARD, kill=True)
    assert driven.end() == Action(Do.RAISE, error=None)
    assert driven.engine.outcome is Outcome.NOT_COMMITTED


def test_an_interruption_during_the_sleep_ends_it_with_nothing_to_clean_up() -> None:
    """Nothing is held while sleeping."""
    driven = Driven()
    driven.tell(REFUSED)
    assert driven.tell(CANCELLED).do is Do.RAISE


def test_an_interruption_at_commit_leaves_the_outcome_unknown() -> None:
    """The caller has gone, so nobody finds out; the report says so."""
    driven = Driven()
    driven.until(Do.COMMIT)
    driven.tell(Happening(What.FAILED, AMBIGUOUS.failure, interrupted=True))
    assert driven.end() == Action(Do.RAISE, error=None)
    assert driven.engine.report(driven.now).outcome is Outcome.UNKNOWN


def test_an_interruption_during_the_clean_up_is_not_swallowed() -> None:
    """The stored result was found; the caller left during the ROLLBACK: it is interrupted, and told 'committed'."""
    driven = Driven(keyed=True)
    driven.until(Do.CLAIM)
    driven.tell(Happening(What.FOUND, record=Record("f", 0, "1")))
    driven.tell(CANCELLED)
    assert driven.end() == Action(Do.RAISE, error=None)
    assert driven.engine.outcome is Outcome.COMMITTED


# -- doubt --------------------------------------------------------------------------------------------------------------


def test_a_doubt_is_settled_by_the_row_that_is_found() -> None:
    """The first attempt was committed: its result is returned, and the body does not run again."""
    driven = in_doubt(Protection.KEY)
    driven.until(Do.CLAIM)
    driven.tell(Happening(What.FOUND, record=Record("f", 1, None)))
    assert driven.end() == Action(Do.RETURN, attempt=1)
    assert driven.done.count(Do.RUN) == 1


def test_a_doubt_is_settled_by_the_insert_that_goes_through() -> None:
    """The first attempt was not and will never be committed: the body runs again."""
    driven = in_doubt(Protection.KEY)
    assert driven.end() == Action(Do.RETURN, attempt=2)
    assert driven.done.count(Do.RUN) == 2


@pytest.mark.parametrize(
    ("answer", "end", "runs"),
    [
        (ProbeAnswer.COMMITTED, Action(Do.RETURN, attempt=1), 1),
        (ProbeAnswer.ABORTED, Action(Do.RETURN, attempt=2), 2),
    ],
)
def test_a_doubt_is_settled_by_the_transactions_status(answer: ProbeAnswer, end: Action, runs: int) -> None:
    """The server's word counts, once it has one."""
    driven = in_doubt(Protection.STATUS)
    driven.until(Do.PROBE)
    driven.tell(Happening(What.ANSWERED, answer=ProbeAnswer.IN_PROGRESS))
    driven.until(Do.PROBE)
    driven.tell(Happening(What.ANSWERED, answer=answer))
    assert driven.end() == end
    assert driven.done.count(Do.RUN) == runs


def test_a_status_that_the_server_forgot_leaves_the_outcome_unknown() -> None:
    """There is nothing left to ask."""
    driven = in_doubt(Protection.STATUS)
    driven.until(Do.PROBE)
    driven.tell(Happening(What.ANSWERED, answer=ProbeAnswer.UNKNOWN))
    assert driven.action.do is Do.RAISE
    assert driven.engine.outcome is Outcome.UNKNOWN


def test_a_doubt_without_protection_is_reported_as_unknown() -> None:
    """Nobody can find out, so nobody guesses."""
    driven = in_doubt(Protection.NONE)
    error = driven.end().error
    assert error is not None
    assert error.outcome is Outcome.UNKNOWN
    assert "It had no key" in str(error)


@pytest.mark.parametrize(
    "settings",
    [{"nested": True}, {"budget": RetryBudget(0.0, 0.0)}, {"rerunnable": False}],
    ids=lambda s: next(iter(s)),
)
@pytest.mark.parametrize("committed", [True, False])
def test_who_may_not_run_again_still_finds_out(settings: dict[str, Any], committed: bool) -> None:
    """Without a retry to spend the key row is asked all the same; if it is not there, the answer is 'not committed'."""
    driven = in_doubt(Protection.KEY, **settings)
    driven.until(Do.CLAIM)
    driven.tell(Happening(What.FOUND, record=Record("f", 1, None)) if committed else Happening(What.CLAIMED))
    assert driven.action.do is Do.ROLL_BACK
    action = driven.end()
    assert driven.done.count(Do.RUN) == 1
    assert driven.engine.attempts == 1
    assert action.do is (Do.RETURN if committed else Do.RAISE)
    assert committed or isinstance(action.error, Unavailable)


def test_a_doubt_that_outlives_the_deadline_is_reported_with_its_key() -> None:
    """The last look is taken as late as it can be; then the caller gets the key to settle it with, and the COMMIT's failure."""
    driven = in_doubt(Protection.KEY, key="order-1")
    while driven.until(Do.CLAIM, Do.RAISE).do is Do.CLAIM:
        driven.tell(CONTENTION)
    error: Any = driven.action.error
    assert (error.outcome, error.operation_key, error.failure) == (Outcome.UNKNOWN, "order-1", AMBIGUOUS.failure)
    assert "order-1" not in f"{error}{error!r}"
    assert EXPIRES_AT <= driven.now < EXPIRES_AT + 0.01


# -- keys ---------------------------------------------------------------------------------------------------------------


def test_a_key_that_was_used_returns_the_stored_result() -> None:
    """The row of another call: its result, without the body."""
    record = Record("f", 0, "1")
    driven = Driven(keyed=True)
    driven.until(Do.CLAIM)
    driven.tell(Happening(What.FOUND, record=record))
    assert driven.end().record == record
    assert Do.RUN not in driven.done


def test_a_key_that_was_used_for_other_work_is_refused() -> None:
    """Another fingerprint under the same key is another operation."""
    driven = Driven(keyed=True)
    driven.until(Do.CLAIM)
    driven.tell(Happening(What.FOUND, record=Record("g", 0, "1")))
    assert isinstance(driven.end().error, KeyReused)


def test_a_key_that_is_held_is_waited_for_until_the_deadline() -> None:
    """Waiting is not bounded by attempts: the body has not run."""
    driven = Driven(keyed=True)
    waits = 0
    while driven.until(Do.CLAIM, Do.RAISE).do is Do.CLAIM:
        driven.tell(CONTENTION)
        waits += 1
    assert isinstance(driven.action.error, InProgress)
    assert driven.now >= EXPIRES_AT
    assert waits > POLICY.attempts_max


def test_a_key_is_not_blamed_for_a_lost_connection() -> None:
    """The deadline passed while the claim's connection was being lost: nobody is known to hold the key."""
    driven = Driven(keyed=True)
    driven.until(Do.CLAIM)
    driven.tell(LOST)
    driven.tell(Happening(What.DISCARDED), after_s=20.0)
    assert type(driven.action.error) is DeadlineExceeded


# -- time ---------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("at", [Do.BEGIN, Do.RUN, Do.COMMIT])
def test_nothing_is_begun_run_or_committed_after_the_deadline(at: Do) -> None:
    """Each of the three is asked for only while there is time; what was open is rolled back."""
    driven = Driven(Protection.NONE)
    previous = {Do.BEGIN: Do.SLEEP, Do.RUN: Do.BEGIN, Do.COMMIT: Do.RUN}[at]
    if at is Do.BEGIN:
        driven.tell(REFUSED)
    driven.until(previous)
    driven.tell(Happening(FINE[previous]), after_s=20.0)
    assert at not in driven.done[-1:]
    assert isinstance(driven.end().error, DeadlineExceeded)
    assert driven.done.count(Do.ROLL_BACK) == (at is not Do.BEGIN)


def test_a_slow_rollback_does_not_hide_why() -> None:
    """A duplicate stays a duplicate, although the deadline passed before the ROLLBACK was answered."""
    driven = Driven()
    driven.until(Do.RUN)
    driven.tell(failed(FailureClass.PERMANENT, rejection=Rejection.DUPLICATE))
    driven.tell(Happening(What.ROLLED_BACK), after_s=20.0)
    assert isinstance(driven.action.error, Conflict)


def test_a_delay_that_does_not_fit_is_not_slept() -> None:
    """The error comes at once, and its report says why."""
    driven = Driven(Protection.NONE)
    driven.until(Do.RUN)
    driven.tell(LOST, after_s=9.5)
    assert driven.end().error is not None
    assert Do.SLEEP not in driven.done
    assert driven.engine.report(driven.now).reason == "deadline"


# -- budget -------------------------------------------------------------------------------------------------------------


def test_a_success_pays_in_and_gets_back_what_its_retries_cost() -> None:
    """A retry that works costs nothing in the end; one that does not stays spent."""
    budget = RetryBudget(0.5, 1.0, 10.0, clock=SYSTEM_CLOCK)
    driven = Driven(Protection.NONE, budget=budget)
    full = budget.balance(START)
    driven.until(Do.RUN)
    driven.tell(LOST)
    assert driven.until(Do.SLEEP).do is Do.SLEEP
    assert budget.balance(driven.now) == full - 1
    driven.end()
    assert budget.balance(driven.now) == full + 0.5


def test_contention_costs_nothing() -> None:
    """The server is up: an empty budget does not stop the loser of a deadlock."""
    driven = Driven(Protection.NONE, budget=RetryBudget(0.0, 0.0))
    driven.until(Do.RUN)
    driven.tell(CONTENTION)
    assert driven.end().do is Do.RETURN


# -- what is told -------------------------------------------------------------------------------------------------------


def test_the_events_of_a_doubt_that_was_settled() -> None:
    """Each thing that happened is told once, in order."""
    driven = in_doubt(Protection.KEY, narrate=True)
    driven.end()
    kinds = [type(event) for event in driven.engine.notes]
    assert kinds == [AttemptFailed, RetryScheduled, CommitResolved, OperationEnded]
    assert driven.engine.notes[-1] == OperationEnded("transfer", Outcome.COMMITTED, 2, 1.0)


def test_the_events_of_giving_up() -> None:
    """A retry that was possible and is not made is told, with the reason."""
    driven = Driven(Protection.NONE, narrate=True, budget=RetryBudget(0.0, 0.0))
    driven.until(Do.RUN)
    driven.tell(LOST)
    driven.end()
    failed_, denied, ended = driven.engine.notes
    assert (type(failed_), denied) == (AttemptFailed, RetryDenied("transfer", 1, FailureClass.LOST, "budget"))
    assert ended == OperationEnded("transfer", Outcome.NOT_COMMITTED, 1, 0.0, failure_class=FailureClass.LOST)


def test_nothing_is_built_while_nobody_listens() -> None:
    """Without a listener there are no notes, whatever happens."""
    driven = in_doubt(Protection.KEY)
    driven.end()
    assert driven.engine.notes == []


def test_a_replay_is_told_as_one() -> None:
    """The result came from another call's row."""
    driven = Driven(keyed=True, narrate=True)
    driven.until(Do.CLAIM)
    driven.tell(Happening(What.FOUND, record=Record("f", 0, "1")))
    driven.end()
    assert driven.engine.notes == [OperationEnded("transfer", Outcome.COMMITTED, 1, 0.0, replayed=True)]


# -- the shell ----------------------------------------------------------------------------------------------------------


class BrokenPort:
    """A port that raises one error at `run`, and counts what is done to it."""

    def __init__(self, error: BaseException) -> None:
        self.error = error
        self.done: list[str] = []

    def __getattr__(self, name: str) -> Callable[..., None]:
        return lambda *_, **__: self.done.append(name)

    def run(self) -> None:
        raise self.error

    def classify(self, error: BaseException, doing: Do) -> Failure:
        return Failure(FailureClass.PERMANENT, Stage.BODY, name=type(error).__name__)


def test_the_shell_raises_the_very_exception_that_it_caught() -> None:
    """Not a copy and not a cause: the caller's own exception, after the ROLLBACK, with the report on it."""
    error = ValueError("mine")
    port: Any = BrokenPort(error)
    events = EventStream()
    heard: list[Event] = []
    events.subscribe(heard.append)
    plan = Plan("transfer", SYSTEM_CLOCK.monotonic() + 10.0)
    shell: Shell[None] = Shell(plan, port, clock=SYSTEM_CLOCK, random=lambda: 0.5, events=events)
    with pytest.raises(ValueError, match="mine") as caught:
        shell.run()
    assert caught.value is error
    assert port.done == ["begin", "roll_back"]
    assert [type(event) for event in heard] == [AttemptFailed, OperationEnded]


def test_a_deadline_that_cuts_the_next_look_at_a_held_key_is_in_progress() -> None:
    """What the deadline cuts says nothing new: the last thing known about the key is that another caller holds it."""
    driven = Driven(Protection.KEY, keyed=True)
    driven.until(Do.CLAIM)
    driven.tell(Happening(What.FAILED, failure=Failure(FailureClass.CONTENTION, Stage.BODY)))
    driven.until(Do.BEGIN)
    driven.now = EXPIRES_AT
    driven.tell(Happening(What.FAILED, failure=Failure(FailureClass.LOST, Stage.BODY, connection_usable=False)))
    assert isinstance(driven.end().error, InProgress)
