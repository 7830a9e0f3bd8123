"""The workloads: what they generate is repeatable and different where it must be, and what they do adds up."""

from __future__ import annotations

import json
from collections import Counter
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sqlalchemy import create_engine
from sqlalchemy.orm import Session

from holdfast.clock import seeded_random
from holdfast.drills.workloads import PREFIX, WORKLOADS, Call, Identity, Refused, TableWorkload, workload_named
from holdfast.errors import ConfigurationError

TABLE_WORKLOADS = [name for name, kind in WORKLOADS.items() if issubclass(kind, TableWorkload)]
SEEDS = st.integers(0, 2**32)


def calls_of(name: str, seed: int, count: int, process: int = 1) -> list[Call]:
    workload, random = workload_named(name), seeded_random(seed)
    return [workload.next(random, Identity(process, index)) for index in range(count)]


def performed(name: str, calls: list[Call]) -> tuple[list[dict[str, Any] | None], dict[str, Any]]:
    """What each call observed (None: refused), and the final state; one transaction after the other."""
    workload = workload_named(name)
    assert isinstance(workload, TableWorkload)
    engine = create_engine("sqlite://")
    workload.metadata.create_all(engine)
    with Session(engine) as session, session.begin():
        workload.set_up(session)
    observed: list[dict[str, Any] | None] = []
    for call in calls:
        try:
            with Session(engine) as session, session.begin():
                observed.append(workload.perform(session, call))
        except Refused:
            observed.append(None)
    with Session(engine) as session:
        final = workload.final(session)
    engine.dispose()
    return observed, final


@pytest.mark.parametrize("name", WORKLOADS)
@given(seed=SEEDS)
@settings(max_examples=20)
def test_the_same_seed_makes_the_same_calls(name: str, seed: int) -> None:
    """A drill can be repeated, and what it asks for fits into a line of JSON."""
    calls = calls_of(name, seed, 50)
    assert calls == calls_of(name, seed, 50)
    assert all(json.loads(json.dumps(call.v)) == call.v for call in calls)


@pytest.mark.parametrize("name", [name for name, kind in WORKLOADS.items() if not kind.keyed])
@given(seed=SEEDS)
@settings(max_examples=20)
def test_no_two_operations_share_a_key(name: str, seed: int) -> None:
    """Where keys are not shared on purpose, every operation of every client has one of its own."""
    calls = calls_of(name, seed, 40, process=1) + calls_of(name, seed, 40, process=2)
    assert len({call.key for call in calls}) == len(calls)


@pytest.mark.parametrize("name", [name for name, kind in WORKLOADS.items() if kind.keyed])
def test_clients_share_keys_where_they_should(name: str) -> None:
    """Several callers ask under one key, from one client and from several, and always for the same thing."""
    calls = calls_of(name, 1, 200, process=1) + calls_of(name, 2, 200, process=2)
    asked: dict[tuple[str, str], set[str]] = {}
    for call in calls:
        asked.setdefault((call.scope, call.key), set()).add(json.dumps(call.v, sort_keys=True))
    assert len(asked) < len(calls) / 2
    assert all(len(values) == 1 for values in asked.values())


@pytest.mark.parametrize("name", TABLE_WORKLOADS)
def test_tables_carry_the_drills_name(name: str) -> None:
    """A drill can tell its own tables from everybody else's."""
    workload = workload_named(name)
    assert isinstance(workload, TableWorkload)
    assert all(table.startswith(PREFIX) for table in workload.metadata.tables)


@given(seed=SEEDS)
@settings(max_examples=15)
def test_money_is_neither_made_nor_lost(seed: int) -> None:
    """The total is the same at every read, no balance is negative, and the ledger explains the balances."""
    observed, final = performed("bank", calls_of("bank", seed, 120))
    opened = sum(final["initial"].values())
    reads = [seen["balances"] for seen in observed if seen is not None and "balances" in seen]
    assert reads
    assert all(
        sum(balances.values()) == opened and min(balances.values()) >= 0 for balances in [*reads, final["balances"]]
    )
    expected = dict(final["initial"])
    for _, source, target, amount in final["ledger"]:
        expected[str(source)] -= amount
        expected[str(target)] += amount
    assert expected == final["balances"]


def test_a_transfer_without_money_is_refused() -> None:
    """The operation says no by an exception, so that it is rolled back, and nothing of it is there."""
    poor = [
        Call("transfer", {"from": 0, "to": 1, "amount": 60, "id": f"t{number}"}, f"t{number}") for number in range(2)
    ]
    observed, final = performed("bank", poor)
    assert observed[1] is None
    assert [row[0] for row in final["ledger"]] == ["t0"]
    assert final["balances"]["0"] == 40


@pytest.mark.parametrize("name", ["set", "unique"])
def test_every_insert_is_found_again(name: str) -> None:
    """The final state lists the ids in the words of the invokes."""
    calls = calls_of(name, 7, 30)
    _, final = performed(name, calls)
    assert final["ids"] == [call.v["id"] for call in calls]


def test_a_set_shows_what_came_twice() -> None:
    """No unique index hides a doubled insert."""
    call = calls_of("set", 7, 1)[0]
    assert performed("set", [call, call])[1]["ids"] == [call.v["id"]] * 2


@given(seed=SEEDS)
@settings(max_examples=10)
def test_counters_count(seed: int) -> None:
    """Each row is at the sum of what was added to it."""
    calls = calls_of("counter", seed, 40)
    _, final = performed("counter", calls)
    added: Counter[str] = Counter()
    for call in calls:
        added[call.v["row"]] += call.v["by"]
    assert {row: n for row, n in final["rows"].items() if n} == dict(added)


def test_read_modify_write_says_who_wrote() -> None:
    """Beside the number stand the ids of all who added to it."""
    calls = calls_of("rmw", 7, 40)
    _, final = performed("rmw", calls)
    assert all(row["n"] == len(row["ids"]) for row in final["rows"].values())
    assert sum(row["n"] for row in final["rows"].values()) == len(calls)


@given(seed=SEEDS)
@settings(max_examples=10)
def test_lists_hold_what_was_appended_in_order(seed: int) -> None:
    """Appends are unique, at most four micro-operations make a transaction, and a read sees every append before it."""
    calls = calls_of("append", seed, 60)
    observed, final = performed("append", calls)
    model: dict[int, list[int]] = {}
    for seen in observed:
        assert seen is not None
        assert 1 <= len(seen["txn"]) <= 4
        for kind, key, value in seen["txn"]:
            if kind == "append":
                model.setdefault(key, []).append(value)
            else:
                assert value == model.get(key, [])
    appended = [value for values in model.values() for value in values]
    assert len(set(appended)) == len(appended)
    assert final["lists"] == {str(key): values for key, values in sorted(model.items())}


def test_replay_counts_effects_by_tenant() -> None:
    """The same key of two tenants is two saves, and a save that ran twice is counted twice."""
    red, blue = (
        Call("keyed", {"id": f"{name}-1", "tenant": name, "key_hash": ""}, "key-1", name) for name in ("red", "blue")
    )
    observed, final = performed("replay", [red, blue, red])
    assert final["effects"] == {"red-1": 2, "blue-1": 1}
    results = [seen["result"] for seen in observed if seen is not None]
    assert len(set(results)) == 3  # who runs it again is told another number


def test_an_echo_comes_back() -> None:
    """What goes out comes back, and some callers are impatient."""
    calls = calls_of("echo", 7, 100)
    observed, _ = performed("echo", calls)
    assert [seen["nonce"] for seen in observed if seen is not None] == [call.v["nonce"] for call in calls]
    assert 0 < sum(call.cancel_after is not None for call in calls) < 50


@pytest.mark.parametrize("name", WORKLOADS)
def test_an_operation_can_be_asked_for_again(name: str) -> None:
    """From what a history tells, the same call is made; what wrote nothing is left alone."""
    workload = workload_named(name)
    for call in calls_of(name, 7, 30):
        again = workload.again(call.f, call.v, call.key)
        assert (again is None) == (call.f in workload.reading)
        if again is not None:
            assert (again.f, again.v, again.key, again.scope) == (call.f, call.v, call.key, call.scope)


def test_an_unknown_workload_is_named() -> None:
    """The error lists what there is."""
    with pytest.raises(ConfigurationError, match="choose bank, set"):
        workload_named("lottery")
