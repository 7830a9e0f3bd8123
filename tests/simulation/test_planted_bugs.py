"""A check that cannot fail proves nothing: for each, a bug that it must see, planted in the engine, a shell or a port."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest

from holdfast import decision
from holdfast.errors import NotCommitted, UsageError
from holdfast.operation import Record
from holdfast.outcome import Failure, FailureClass, Outcome
from holdfast.transaction import Action, AsyncShell, Do, Engine, Happening, Shell, What
from holdfast.transaction.actions import CLAIM_AND_COMMIT

from . import scenario
from .checks import CHECKS, complaints
from .client import Client, ConnectionLost, Moves
from .enumeration import enumerate_cases
from .scenario import Case, Simulator
from .server import Connection, Server

_ENGINE = "holdfast.transaction.engine"

Plant = Callable[[pytest.MonkeyPatch], None]

BUGS: list[Any] = []
"""(name, plant, setting, the check that must turn red), as pytest parameters."""


def _bug(setting: str, *checks: str) -> Callable[[Plant], Plant]:
    def register(plant: Plant) -> Plant:
        name = plant.__name__.removeprefix("_").replace("_", " ")
        BUGS.extend(pytest.param(plant, setting, check, id=f"{name}: {check}") for check in checks)
        return plant

    return register


# -- the eight that the design names -----------------------------------------------------------------------------------


@_bug("sync status", "exactly once")
@_bug("async keyed", "told the truth")
def _retry_on_2013_without_resolving(monkeypatch: pytest.MonkeyPatch) -> None:
    classified = Client._classified

    def mistaken(self: Client, error: BaseException, doing: Do) -> Failure:
        failure = classified(self, error, doing)
        return failure._replace(failure_class=FailureClass.LOST) if isinstance(error, ConnectionLost) else failure

    monkeypatch.setattr(Client, "_classified", mistaken)


@_bug("sync unprotected", "told the truth")
@_bug("async keyed", "told the truth")
def _not_committed_on_2013_at_commit(monkeypatch: pytest.MonkeyPatch) -> None:
    next_ = Engine._next

    def hasty(self: Engine, now: float, draw: float) -> Action:
        if self._doubt is None:
            return next_(self, now, draw)
        return self._raise(NotCommitted("the connection was lost"), Outcome.NOT_COMMITTED)

    monkeypatch.setattr(Engine, "_next", hasty)


@_bug("sync keyed", "clean connections only", "nothing partial")
@_bug("async unprotected", "clean connections only", "nothing partial")
def _no_rollback_after_1205(monkeypatch: pytest.MonkeyPatch) -> None:
    roll_back = Client.roll_back

    def skipped(self: Client) -> Moves[Any]:
        if not self.failures or self.failures[-1][2] is not FailureClass.CONTENTION:
            yield from roll_back(self)
            return
        assert self._connection is not None
        self._pool.give_back(self._connection)
        self._connection = None

    monkeypatch.setattr(Client, "roll_back", skipped)


@_bug("sync unprotected", "commit sent once", "told the truth")
@_bug("async keyed", "commit sent once")
def _commit_sent_twice(monkeypatch: pytest.MonkeyPatch) -> None:
    send_commit = Client._send_commit

    def stubborn(self: Client, fault: Any, connection: Connection) -> Moves[Any]:
        try:
            yield from send_commit(self, fault, connection)
        except ConnectionLost:
            connection.broken = False
            yield from send_commit(self, None, connection)

    monkeypatch.setattr(Client, "_send_commit", stubborn)


@_bug("sync keyed", "nothing partial", "told the truth")
@_bug("async automatic", "nothing partial", "told the truth")
def _key_row_in_its_own_transaction(monkeypatch: pytest.MonkeyPatch) -> None:
    claim = Client.claim

    def apart(self: Client, attempt: int, *, settling: bool) -> Moves[Any]:
        found = yield from claim(self, attempt, settling=settling)
        if found is None:
            assert self._connection is not None
            self._server.commit(self._connection)
            self._open(self._connection)
        return found

    monkeypatch.setattr(Client, "claim", apart)


@_bug("sync keyed", "clean connections only")
@_bug("async keyed", "clean connections only")
@_bug("async unprotected", "clean connections only")
def _connection_pooled_after_a_cancel(monkeypatch: pytest.MonkeyPatch) -> None:
    discard = Client.discard

    def kept(self: Client, *, kill: bool) -> Moves[Any]:
        connection = self._connection
        yield from discard(self, kill=kill)
        if connection is not None and self.interrupts:
            self._pool.checked_out += 1
            self._pool.give_back(connection)

    monkeypatch.setattr(Client, "discard", kept)


@_bug("sync keyed broke", "budget respected")
@_bug("async status broke", "budget respected")
def _budget_ignored(monkeypatch: pytest.MonkeyPatch) -> None:
    decide = decision.decide
    monkeypatch.setattr(f"{_ENGINE}.decide", lambda situation, policy, budget: decide(situation, policy, None))


@_bug("sync keyed", "attempts within bounds")
@_bug("sync unprotected", "attempts within bounds")
def _retry_nested_twice(monkeypatch: pytest.MonkeyPatch) -> None:
    class Insistent(Shell[str]):
        def __init__(self, plan: Any, port: Any, **rest: Any) -> None:
            super().__init__(plan, port, **rest)
            self._parts = (plan, port, rest)

        def run(self) -> str:
            try:
                return super().run()
            except NotCommitted:
                plan, port, rest = self._parts
                return str(Shell(plan, port, **rest).run())

    monkeypatch.setattr(scenario, "Shell", Insistent)


@_bug("sync keyed nested", "attempts within bounds")
@_bug("async status nested", "attempts within bounds")
def _retries_inside_another_layer(monkeypatch: pytest.MonkeyPatch) -> None:
    decide = decision.decide
    monkeypatch.setattr(
        f"{_ENGINE}.decide",
        lambda situation, policy, budget: decide(situation._replace(nested=False), policy, budget),
    )


# -- one for every other check -----------------------------------------------------------------------------------------


@_bug("sync keyed", "unknown only when it must be")
@_bug("async status", "unknown only when it must be")
def _resolves_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Engine, "_wait_to_resolve", lambda self, failure, now, draw: self._unknown(now))


@_bug("sync status", "unknown only when it must be")
def _gives_up_when_the_next_look_would_be_late(monkeypatch: pytest.MonkeyPatch) -> None:
    wait = Engine._wait

    def hasty(self: Engine, pace: Any, failure: Failure, now: float, draw: float) -> Action:
        action = wait(self, pace, failure, now, draw)
        return self._out_of_time(now) if action.delay_s >= (self._plan.expires_at - now) / 2 else action

    monkeypatch.setattr(Engine, "_wait", hasty)


@_bug("async keyed", "deadline kept")
@_bug("async unprotected", "deadline kept")
def _no_timer(monkeypatch: pytest.MonkeyPatch) -> None:
    class Patient(AsyncShell[str]):
        def __init__(self, plan: Any, port: Any, **rest: Any) -> None:
            super().__init__(plan, port, **rest)
            self._expires_at += 1.0

    monkeypatch.setattr(scenario, "AsyncShell", Patient)


@_bug("sync keyed", "nothing leaked", "nothing held asleep")
@_bug("async status", "nothing leaked", "nothing held asleep")
def _forgets_the_connection(monkeypatch: pytest.MonkeyPatch) -> None:
    failed = Engine._failed

    def careless(self: Engine, happened: Happening, now: float, draw: float) -> Action:
        action = failed(self, happened, now, draw)
        return self._cleaned(now, draw) if action.do is Do.DISCARD else action

    monkeypatch.setattr(Engine, "_failed", careless)


@_bug("sync keyed", "nothing left running")
@_bug("async unprotected", "nothing left running")
def _never_kills(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Server, "kill", lambda self, transaction: None)


@_bug("sync automatic", "own result")
def _returns_the_last_attempts_result(monkeypatch: pytest.MonkeyPatch) -> None:
    claim = Client.claim

    def nameless(self: Client, attempt: int, *, settling: bool) -> Moves[Any]:
        found: Record | None = yield from claim(self, attempt, settling=settling)
        if found is not None:
            found = replace(found, attempt=0, result="the result of somebody else")
        return found

    monkeypatch.setattr(Client, "claim", nameless)


@_bug("sync keyed", "replay without the body", "exactly once")
@_bug("async keyed", "replay without the body", "exactly once")
def _does_not_look_for_the_key(monkeypatch: pytest.MonkeyPatch) -> None:
    claim = Client.claim

    def blind(self: Client, attempt: int, *, settling: bool) -> Moves[Any]:
        yield from claim(self, attempt, settling=settling)

    monkeypatch.setattr(Client, "claim", blind)


@_bug("sync late", "told the truth")
@_bug("async late", "told the truth")
@_bug("sync late block", "told the truth")
def _believes_an_insert_while_the_row_is_under_way(monkeypatch: pytest.MonkeyPatch) -> None:
    claimed = Engine._claimed

    def credulous(self: Engine, now: float, *, conclusive: bool) -> Action:
        self._settle(Outcome.NOT_COMMITTED, now)
        return claimed(self, now, conclusive=conclusive)

    monkeypatch.setattr(Engine, "_claimed", credulous)


@_bug("sync late", "no lame excuse")
def _does_not_claim_first_when_in_doubt(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Engine, "_must_claim", lambda self: not self._plan.claims_late)
    monkeypatch.setattr(Engine, "_commit", lambda self, now: CLAIM_AND_COMMIT)


@_bug("sync keyed", "interrupts honoured")
@_bug("async status", "interrupts honoured")
def _retries_after_a_cancel(monkeypatch: pytest.MonkeyPatch) -> None:
    failed = Engine._failed

    def deaf(self: Engine, happened: Happening, now: float, draw: float) -> Action:
        assert happened.failure is not None
        failure = happened.failure
        if happened.interrupted and failure.name != "Crash":
            failure = failure._replace(failure_class=FailureClass.LOST)
        return failed(self, Happening(What.FAILED, failure=failure), now, draw)

    monkeypatch.setattr(Engine, "_failed", deaf)


@_bug("async keyed", "interrupts honoured")
@_bug("async unprotected block", "interrupts honoured")
def _believes_the_driver_that_masks_a_cancel(monkeypatch: pytest.MonkeyPatch) -> None:
    def credulous(self: AsyncShell[str], error: BaseException, doing: Do, **_: object) -> Happening:
        return self._remember(error, doing, self._port.classify(error, doing))

    monkeypatch.setattr(AsyncShell, "_failed", credulous)


@_bug("sync keyed rival-stays", "key holder awaited")
def _does_not_wait_for_the_key(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Engine, "_wait", lambda self, pace, failure, now, draw: self._out_of_time(now))


@_bug("sync keyed rival-aborts", "key holder awaited")
def _blames_the_key_for_a_slow_body(monkeypatch: pytest.MonkeyPatch) -> None:
    claimed = Engine._claimed

    def forgetful(self: Engine, now: float, *, conclusive: bool) -> Action:
        held = self._key_is_held
        action = claimed(self, now, conclusive=conclusive)
        self._key_is_held = held
        return action

    monkeypatch.setattr(Engine, "_claimed", forgetful)


@_bug("sync keyed rival-commits", "rivals respected")
def _takes_a_held_key_for_a_refusal(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Engine, "_wait", lambda self, pace, failure, now, draw: self._out_of_time(now))


@_bug("sync keyed", "first error kept")
@_bug("async unprotected", "first error kept")
def _forgets_why_after_a_slow_rollback(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(f"{_ENGINE}._HOPELESS", frozenset())


@_bug("sync keyed", "no lame excuse")
@_bug("async status", "no lame excuse")
def _never_tries_again(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Engine, "_decide", lambda self, failure, now, draw: self._give_up())


@_bug("sync keyed", "typed errors")
def _raises_an_error_of_another_tree(monkeypatch: pytest.MonkeyPatch) -> None:
    def untyped(failure: Failure, **_: Any) -> Any:
        error = UsageError(str(failure))
        error.outcome = Outcome.NOT_COMMITTED
        return error

    monkeypatch.setattr(f"{_ENGINE}.error_for", untyped)


@_bug("sync automatic block outage", "attempts within bounds", "told the truth")
@_bug("async status nested outage", "attempts within bounds")
def _runs_again_whatever_an_outage_cut(monkeypatch: pytest.MonkeyPatch) -> None:
    awaited = Engine._awaited

    def eager(self: Engine, now: float, draw: float, *, server_was_away: bool) -> Action:
        if server_was_away and now < self._plan.expires_at:
            return self._begin(now)
        return awaited(self, now, draw, server_was_away=server_was_away)

    monkeypatch.setattr(Engine, "_awaited", eager)


@_bug("async unprotected outage", "budget respected")
def _takes_every_loss_for_an_outage(monkeypatch: pytest.MonkeyPatch) -> None:
    awaited = Engine._awaited

    def credulous(self: Engine, now: float, draw: float, *, server_was_away: bool) -> Action:
        return awaited(self, now, draw, server_was_away=True)

    monkeypatch.setattr(Engine, "_awaited", credulous)


@_bug("sync status outage", "deadline kept")
def _waits_for_the_server_for_ever(monkeypatch: pytest.MonkeyPatch) -> None:
    await_server = Client.await_server

    def patient(self: Client) -> Moves[bool]:
        self.expires_at += 1.0
        return (yield from await_server(self))

    monkeypatch.setattr(Client, "await_server", patient)


@_bug("sync keyed", "events tell it once")
@_bug("async status", "events tell it once")
def _tells_the_end_when_it_is_decided(monkeypatch: pytest.MonkeyPatch) -> None:
    raise_ = Engine._raise

    def early(self: Engine, error: Any, outcome: Outcome) -> Action:
        action = raise_(self, error, outcome)
        self._narrate_end(action, 0.0)
        return action

    monkeypatch.setattr(Engine, "_raise", early)


@_bug("async keyed", "nothing leaked", "told the truth")
def _only_cancellation_ends_a_body(monkeypatch: pytest.MonkeyPatch) -> None:
    failed = AsyncShell._failed

    def narrow(self: AsyncShell[str], error: BaseException, doing: Do, **rest: int) -> Happening:
        if isinstance(error, SystemExit):
            raise error
        return failed(self, error, doing, **rest)

    monkeypatch.setattr(AsyncShell, "_failed", narrow)


@pytest.mark.parametrize(("plant", "setting", "check"), BUGS)
def test_a_planted_bug_turns_its_check_red(
    plant: Plant, setting: str, check: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With the bug in place, some schedule makes the check complain that is there for it."""
    plant(monkeypatch)
    with Simulator() as simulator:
        stories = enumerate_cases(Case.parse(setting), simulator)
        assert any(check in dict(complaints(story)) for story in stories)


def test_every_check_has_a_planted_bug() -> None:
    """No check is there that was never seen to fail."""
    assert {parameters.values[2] for parameters in BUGS} == set(CHECKS)
