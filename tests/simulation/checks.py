"""What must hold of every story.

Each check is a generator of complaints; one that yields nothing is satisfied. Its name is what a planted bug must turn red.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

from holdfast.errors import (
    HoldfastError,
    InProgress,
    KeyReused,
    NotCommitted,
    NoWriter,
    OutcomeUnknown,
    StatementRejected,
)
from holdfast.events import CommitResolved, OperationEnded
from holdfast.operation import TOMBSTONE
from holdfast.outcome import FailureClass, Outcome
from holdfast.transaction import Do, Protection

from .client import BodyFailed, Crash
from .faults import Symptom
from .scenario import RIVALS, Call, Story
from .server import State, Transaction

__all__ = ["CHECKS", "complaints"]

Check = Callable[[Story], Iterator[str]]

CHECKS: dict[str, Check] = {}

_LATE_S = 0.25
"""How much later than the deadline an answer may come (promise 2)."""

_WAITING = frozenset({FailureClass.CONTENTION, FailureClass.CANCELLED})


def _check(function: Check) -> Check:
    CHECKS[function.__name__.removeprefix("_").replace("_", " ")] = function
    return function


def complaints(story: Story) -> list[tuple[str, str]]:
    """(check, complaint) for everything that is wrong with `story`."""
    return [(name, text) for name, check in CHECKS.items() for text in check(story)]


def _transfers(story: Story) -> list[Transaction]:
    return [transaction for transaction in story.server.log if transaction.halves]


def _own(story: Story, call: Call) -> list[Transaction]:
    return [transaction for transaction in _transfers(story) if transaction.call == call.name]


def _retried(call: Call) -> Iterator[FailureClass]:
    """The failures after which the body was run again, outages and waits for another transaction's end left out."""
    client = call.client
    doubtful = False
    for place, (bodies, doing, failure_class) in enumerate(client.failures):
        doubtful |= failure_class is FailureClass.AMBIGUOUS
        waited = doing is Do.CLAIM and failure_class in _WAITING and (call.plan.keyed or doubtful)
        if client.bodies > bodies and not waited and doing is not Do.PROBE and place not in client.excused:
            yield failure_class


@_check
def _exactly_once(story: Story) -> Iterator[str]:
    transfers = _transfers(story)
    for call in story.everyone():
        own = len(_own(story, call))
        if own > 1:
            yield f"the {call.name} call was applied {own} times"
    if len(transfers) > 1 and story.case.protection == "keyed":
        yield f"one key was applied {len(transfers)} times"
    if story.second is not None:
        if len(transfers) != 1:
            yield f"the operation was applied {len(transfers)} times in the end"
        if story.second.outcome is not Outcome.COMMITTED:
            yield f"the second caller got {story.second.error!r}"


@_check
def _told_the_truth(story: Story) -> Iterator[str]:
    for call in story.everyone():
        if call.crashed:
            continue
        own = len(_own(story, call))
        if call.outcome is None:
            yield f"the {call.name} call was told nothing: {call.error!r}"
        elif call.outcome is Outcome.NOT_COMMITTED and own:
            yield f"the {call.name} call was told 'not committed' and was applied: {call.error!r}"
        elif call.outcome is Outcome.COMMITTED:
            # Under a key another call may have been the one that did it.
            done = len(_transfers(story)) if call.plan.keyed else own
            if done < 1:
                yield f"the {call.name} call was told 'committed' and was not applied"
        error = call.error
        if isinstance(error, HoldfastError) and error.outcome is not call.outcome:
            yield f"the {call.name} call's error says {error.outcome}, its report {call.outcome}"


@_check
def _nothing_partial(story: Story) -> Iterator[str]:
    for transaction in story.server.log:
        if sorted(transaction.halves) not in ([], ["credit", "debit"]):
            yield f"half a transfer was applied: {transaction.halves}"
    keyed = [t for t in story.server.log if t.row is not None and t.row.attempt != TOMBSTONE]
    if [transaction for transaction in keyed if not transaction.halves]:
        yield "a key row was committed without the work"
    if story.second is not None and len(keyed) != len(_transfers(story)):
        yield "the work was committed without its key row"


@_check
def _unknown_only_when_it_must_be(story: Story) -> Iterator[str]:
    for call in story.everyone():
        if call.outcome is not Outcome.UNKNOWN:
            continue
        if not any(doing is Do.COMMIT and what is FailureClass.AMBIGUOUS for _, doing, what in call.client.failures):
            yield f"the {call.name} call was told 'unknown' without an ambiguous COMMIT"
        unanswerable = any(
            step == "probe" and fault is not None and fault.symptom in (Symptom.FORGOTTEN, Symptom.REJECTED)
            for step, which in story.progress.calls
            for fault in [story.case.schedule.at(step, which)]
        )
        if (
            isinstance(call.error, OutcomeUnknown)
            and call.plan.protection is not Protection.NONE
            and call.ended_at < call.plan.expires_at
            and not unanswerable
        ):
            yield f"the {call.name} call gave up {call.plan.expires_at - call.ended_at:.3f} s before its deadline"


@_check
def _deadline_kept(story: Story) -> Iterator[str]:
    for call in story.everyone():
        late_s = call.ended_at - call.plan.expires_at
        # Nobody can stop a body that is busy with something else.
        if not call.crashed and not call.client.dawdled and late_s > _LATE_S:
            yield f"the {call.name} call was answered {late_s:.3f} s after its deadline"


@_check
def _attempts_within_bounds(story: Story) -> Iterator[str]:
    for call in story.everyone():
        client, plan = call.client, call.plan
        if client.bodies > call.attempts:
            yield f"the {call.name} call ran the body {client.bodies} times in {call.attempts} attempts"
        if client.bodies > 1 and (plan.nested or not plan.rerunnable):
            yield f"the {call.name} call ran the body {client.bodies} times and may once"
        used: dict[object, int] = {}
        for failure_class in _retried(call):
            allowance = plan.policy.allowances.get(failure_class)
            used[allowance] = used.get(allowance, 1) + 1
            if allowance is None or used[allowance] > allowance.attempts:
                yield f"the {call.name} call ran the body again after one {failure_class} too many"


@_check
def _budget_respected(story: Story) -> Iterator[str]:
    for call in story.everyone():
        purse = call.purse
        costly = sum(1 for failure_class in _retried(call) if failure_class.budget_cost)
        if costly > purse.granted:
            yield f"the {call.name} call was rerun {costly} times and asked the budget {purse.granted} times"
        committed = call.outcome is Outcome.COMMITTED
        # Inside another retry layer it is that layer which counts the success.
        if not call.crashed and purse.deposits != (committed and not call.plan.nested):
            yield f"the {call.name} call made {purse.deposits} deposits"
        back = f"the {call.name} call got {purse.refunded} of {purse.spent} tokens back"
        if purse.refunded > 1.0:
            yield f"{back}: more than those of one retry"
        failed = [failure_class for _, _, failure_class in call.client.failures]
        if committed and purse.granted == len(failed) == 1 and purse.refunded != failed[0].budget_refund:
            yield f"{back} for its only retry, after {failed[0]}"


@_check
def _clean_connections_only(story: Story) -> Iterator[str]:
    for pool in story.pools:
        if pool.dirty:
            yield "a connection was given back that another caller cannot use"


@_check
def _nothing_leaked(story: Story) -> Iterator[str]:
    for pool, call in zip(story.pools, story.everyone(), strict=True):
        if pool.checked_out and not call.crashed:
            yield f"the {call.name} call kept {pool.checked_out} connections"


@_check
def _nothing_held_asleep(story: Story) -> Iterator[str]:
    for call in story.everyone():
        if call.client.asleep_holding:
            yield f"the {call.name} call slept with a connection in its hands"


@_check
def _commit_sent_once(story: Story) -> Iterator[str]:
    for call in story.everyone():
        for transaction in call.client.commits:
            if transaction.commits_sent > 1:
                yield f"the {call.name} call sent COMMIT {transaction.commits_sent} times"


@_check
def _own_result(story: Story) -> Iterator[str]:
    transfers = _transfers(story)
    for call in story.everyone():
        if call.error is None and not call.crashed and len(transfers) == 1:
            stored = call.plan.protection is Protection.KEY and story.case.protection in ("automatic", "late")
            if call.value != transfers[0].receipt and not (stored and call in (story.settling, story.second)):
                yield f"the {call.name} call got {call.value!r}, the committed body returned {transfers[0].receipt!r}"


@_check
def _replay_without_the_body(story: Story) -> Iterator[str]:
    second, stranger = story.second, story.stranger
    told = any(call.outcome is Outcome.COMMITTED for call in [*story.calls, story.settling] if call is not None)
    if second is not None and told and second.client.bodies:
        yield "the second caller ran the body of an operation that was committed"
    if stranger is not None and (not isinstance(stranger.error, KeyReused) or stranger.client.bodies):
        yield f"other arguments under the same key were answered with {stranger.error or stranger.value!r}"


@_check
def _interrupts_honoured(story: Story) -> Iterator[str]:
    for call in story.everyone():
        stopped = call.error is not None and not isinstance(call.error, Exception | Crash)
        if bool(call.client.interrupts) != stopped and not call.crashed:
            yield f"the {call.name} call was stopped {call.client.interrupts} times and ended with {call.error!r}"


@_check
def _key_holder_awaited(story: Story) -> Iterator[str]:
    for call in story.everyone():
        if not isinstance(call.error, InProgress):
            continue
        if call.ended_at < call.plan.expires_at:
            yield f"the {call.name} call did not wait for the key's holder until its deadline"
        # What the deadline cuts before the key is asked for again leaves the last answer standing.
        asked = call.client.failures
        *_, (bodies, doing, failure_class) = asked[:-1] if asked[-1][1] is Do.BEGIN else asked
        if call.client.bodies > bodies:
            yield f"the {call.name} call blames the key's holder although it held the key itself"
        if doing is not Do.CLAIM or failure_class not in _WAITING:
            yield f"the {call.name} call blames the key's holder for {failure_class} at {doing.value}"


@_check
def _no_lame_excuse(story: Story) -> Iterator[str]:
    # An engine that never tries again would pass everything else.
    case, call = story.case, story.calls[-1]
    curable = "broke" not in case.options and "nested" not in case.options and case.rival is None
    harmless = all(fault.transient for fault in story.progress.hit)
    doubt = any(what is FailureClass.AMBIGUOUS for _, _, what in call.client.failures)
    enough = len(case.schedule) <= 1 and not any(which == "*" for _, which, _ in case.schedule.entries)
    if not (curable and harmless and enough) or call.crashed or (doubt and case.protection == "unprotected"):
        return
    if "block" in case.options and call.client.failures:
        return  # the body cannot run again
    if call.outcome is not Outcome.COMMITTED:
        yield f"one passing fault, and the {call.name} call ended with {call.error!r}"


@_check
def _typed_errors(story: Story) -> Iterator[str]:
    for call in story.everyone():
        error = call.error
        if isinstance(error, Exception) and not isinstance(error, NotCommitted | OutcomeUnknown | BodyFailed):
            yield f"the {call.name} call ended with {error!r}"


@_check
def _events_tell_it_once(story: Story) -> Iterator[str]:
    for call in story.everyone():
        if call.crashed:
            continue
        ended = [event.outcome for event in call.events if isinstance(event, OperationEnded)]
        if ended != [call.outcome]:
            yield f"the {call.name} call ended as {call.outcome}, its events say {[str(outcome) for outcome in ended]}"
        resolved = [event.outcome for event in call.events if isinstance(event, CommitResolved)]
        doubts = sum(1 for _, doing, what in call.client.failures if what is FailureClass.AMBIGUOUS)
        if call.plan.claims_late:
            doubts = min(doubts, 1)  # the first stays until the end, so that a second one is no news
        if len(resolved) != doubts and call.plan.protection is not Protection.NONE:
            yield f"the {call.name} call had {doubts} doubts, its events settle {len(resolved)}"


@_check
def _first_error_kept(story: Story) -> Iterator[str]:
    for call in story.everyone():
        failures = call.client.failures
        if not failures or call.crashed or call.client.interrupts:
            continue
        _, doing, failure_class = failures[-1]
        doubtful = any(what is FailureClass.AMBIGUOUS for _, _, what in failures)
        refused = failure_class is FailureClass.PERMANENT and not doubtful
        if refused and not isinstance(call.error, StatementRejected | BodyFailed | NoWriter):
            yield f"the {call.name} call was refused at {doing.value} and ended with {call.error!r}"


@_check
def _nothing_left_running(story: Story) -> Iterator[str]:
    for call in story.everyone():
        if call.left_running and not call.crashed:
            yield f"the {call.name} call ended, and its transaction went on on the server"


@_check
def _rivals_respected(story: Story) -> Iterator[str]:
    rival = story.case.rival
    if rival is None or story.case.schedule.entries:
        return
    call = story.calls[0]
    state, after_s = RIVALS[rival]
    expected = {
        "rival-commits": Outcome.COMMITTED,
        "rival-aborts": Outcome.COMMITTED,
        "rival-stays": InProgress,
        "stranger": KeyReused,
    }[rival]
    got = call.outcome if call.error is None else type(call.error)
    if got != expected:
        yield f"beside {rival} the call ended with {call.error or call.value!r}"
    if call.client.bodies != (state is State.ROLLED_BACK):
        yield f"beside {rival} the body ran {call.client.bodies} times"
    if call.error is None and call.ended_at - (call.plan.expires_at - 10.0) < after_s:
        yield f"the call did not wait for {rival}"
