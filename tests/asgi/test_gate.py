"""Who gets in while there is less room than requests: the rules, in every order, and what they do to a flood."""

from __future__ import annotations

import random

import pytest
from hypothesis import Phase, given, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)

from holdfast.asgi.admission import DEFAULT_SHARES
from holdfast.asgi.gate import Gate, Priority, Ticket
from holdfast.errors import ConfigurationError

TENANTS = [None, "a", "b"]


def goodput(rates: dict[str, float], rng: random.Random, *, tenants_count: bool = True) -> dict[str, float]:
    """The share of each tenant's requests that was served in 20 simulated seconds: 20 places, 0.1 s a request."""
    gate = Gate(limit=20, queue=10)
    service_s, wait_s = 0.1, 0.1
    arrivals = sorted((moment, name) for name, rate in rates.items() for moment in _poisson(rate, 20.0, rng))
    names: dict[Ticket, str] = {}
    ends: list[tuple[float, Ticket]] = []
    queued: dict[Ticket, float] = {}
    served = dict.fromkeys(rates, 0)

    def admit(ticket: Ticket, at: float) -> None:
        ends.append((at + service_s, ticket))
        served[names[ticket]] += 1

    for now, name in arrivals:
        while ends and ends[0][0] <= now:  # they are in order: every request takes the same time
            at, ticket = ends.pop(0)
            for late in [other for other, since in queued.items() if at - since > wait_s]:
                gate.withdraw(late)
                del queued[late]
            for woken in gate.leave(ticket, at):
                del queued[woken]
                admit(woken, at)
        ticket = Ticket(Priority.NORMAL, name if tenants_count else None)
        names[ticket] = name
        if gate.enter(ticket, now):
            admit(ticket, now)
            continue
        joined, displaced = gate.join(ticket, now)
        if displaced is not None:
            del queued[displaced]
        if joined:
            queued[ticket] = now
    offered = list(names.values())
    return {name: served[name] / offered.count(name) for name in rates}


def _poisson(rate: float, until_s: float, rng: random.Random) -> list[float]:
    moments, now = [], rng.expovariate(rate)
    while now < until_s:
        moments.append(now)
        now += rng.expovariate(rate)
    return moments


MODEST = {"a": 40.0, "b": 40.0}
FLOODED = {**MODEST, "flooder": 2000.0}


def test_one_tenants_flood_leaves_the_others_goodput_unchanged(rng: random.Random) -> None:
    """Two tenants need four places each of twenty, and a third would need two hundred: they are served as before."""
    calm, flooded = goodput(MODEST, rng), goodput(FLOODED, rng)
    for name in MODEST:
        assert calm[name] > 0.99
        assert flooded[name] > 0.98  # of some hundred requests: chance alone moves that by more than a half percent
    assert 0.03 < flooded["flooder"] < 0.07  # it has its share, ten places, which is a hundred a second


def test_planted_gate_that_knows_no_tenants_lets_the_flood_through(rng: random.Random) -> None:
    """The same simulation sees what happens when all count as one."""
    flooded = goodput(FLOODED, rng, tenants_count=False)
    assert max(flooded["a"], flooded["b"]) < 0.5


# ----------------------------------------------------------------------------------------------------- the gate's rules


class GateRules(RuleBasedStateMachine):
    """Whatever comes in whatever order: the limit, the shares and the counts hold, and nobody waits at an empty place."""

    def __init__(self) -> None:
        super().__init__()
        self.now = 0.0
        self.gate = Gate(limit=4, queue=4, shares=DEFAULT_SHARES)
        self.inside: list[Ticket] = []
        self.queued: list[Ticket] = []
        self.came: dict[str, float] = {}

    def check_it_may_be_in(self, ticket: Ticket) -> None:
        """What the rules promise, said in another way than the gate says it."""
        limit = self.gate.limit
        inside = [other for other in self.inside if other is not ticket]
        assert len(inside) < limit
        kept_for_others = 0
        for priority, kept in zip(Priority, self.gate._guaranteed, strict=True):
            used = sum(other.priority is priority for other in inside)
            if priority is not ticket.priority:
                kept_for_others += max(0, kept - used)
            elif used < kept:
                kept_for_others = -100
        assert limit - len(inside) > kept_for_others
        others_about = any(self.now - moment < 10 for name, moment in self.came.items() if name != ticket.tenant)
        if ticket.tenant is not None and others_about:
            assert sum(other.tenant == ticket.tenant for other in inside) < -(-limit // 2)

    @rule(priority=st.sampled_from(Priority), tenant=st.sampled_from(TENANTS))
    def come(self, priority: Priority, tenant: str | None) -> None:
        ticket = Ticket(priority, tenant)
        entered = self.gate.enter(ticket, self.now)
        if tenant is not None:
            self.came[tenant] = self.now
        if entered:
            self.check_it_may_be_in(ticket)
            self.inside.append(ticket)
            return
        joined, displaced = self.gate.join(ticket, self.now)
        if displaced is not None:
            assert joined
            assert displaced.priority >= priority
            self.queued.remove(displaced)
        if joined:
            self.queued.append(ticket)

    @precondition(lambda self: self.inside)
    @rule(which=st.integers(0, 100))
    def go(self, which: int) -> None:
        woken = self.gate.leave(self.inside.pop(which % len(self.inside)), self.now)
        for ticket in woken:
            self.check_it_may_be_in(ticket)
            self.queued.remove(ticket)
            self.inside.append(ticket)
        assert all(self.gate._next(self.now) is not ticket for ticket in self.queued)

    @precondition(lambda self: self.queued)
    @rule(which=st.integers(0, 100))
    def give_up(self, which: int) -> None:
        self.gate.withdraw(self.queued.pop(which % len(self.queued)))

    @rule(limit=st.integers(1, 6))
    def resize(self, limit: int) -> None:
        self.gate.resize(limit)

    @rule(seconds=st.sampled_from([0.1, 1.0, 10.0]))
    def pass_time(self, seconds: float) -> None:
        self.now += seconds

    @invariant()
    def counts_are_true(self) -> None:
        assert self.gate.in_flight == len(self.inside)
        assert self.gate.waiting == len(self.queued) <= 4
        assert all(ticket.is_in for ticket in self.inside)
        assert not any(ticket.is_in for ticket in self.queued)
        assert self.gate.tenants == len({ticket.tenant for ticket in self.inside} - {None})
        assert self.gate._in_class == [sum(t.priority is p for t in self.inside) for p in Priority]

    @invariant()
    def there_is_always_a_place_for_whoever_comes(self) -> None:
        assert sum(self.gate._guaranteed) < self.gate.limit
        if not self.inside:
            assert all(Gate._has_room(self.gate, priority) for priority in Priority)
            assert not self.queued


TestGateRules = GateRules.TestCase


@pytest.mark.parametrize("rule_of", ["_tenant_has_room", "_has_room"])
def test_planted_gate_that_breaks_a_rule_is_seen(rule_of: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without the shares of tenants, or of classes, the machine above fails."""
    monkeypatch.setattr(Gate, rule_of, lambda self, *_: self.in_flight < self.limit)
    found = settings(max_examples=300, phases=[Phase.generate], database=None)
    with pytest.raises(AssertionError):
        run_state_machine_as_test(GateRules, settings=found)


@given(limit=st.integers(1, 1000), shares=st.lists(st.floats(0, 0.99), min_size=3, max_size=3))
def test_guarantees_are_never_more_than_there_is(limit: int, shares: list[float]) -> None:
    """Whatever the shares and however small the limit: one place is for whoever comes."""
    if sum(shares) >= 1:
        with pytest.raises(ConfigurationError):
            Gate(limit=limit, shares=dict(zip(Priority, shares, strict=True)))
        return
    gate = Gate(limit=limit, shares=dict(zip(Priority, shares, strict=True)))
    assert sum(gate._guaranteed) < limit
    assert all(kept >= 0 for kept in gate._guaranteed)
