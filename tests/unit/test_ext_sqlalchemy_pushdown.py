"""When a session's limits change, to what, and when they need not."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from holdfast.dialects import Flavour
from holdfast.ext.sqlalchemy.pushdown import DEADLINE_MAX_S, PushDown, limits_for, statement_for, statements_for

SERVERS = (Flavour.MARIADB, Flavour.MYSQL, Flavour.POSTGRESQL)
some_seconds = st.floats(0.0, 100_000.0)


@pytest.mark.parametrize("flavour", Flavour)
@pytest.mark.parametrize("remaining_s", [10.0, 9.99, 9.9])
def test_usual_deadline_changes_nothing(flavour: Flavour, remaining_s: float) -> None:
    """An operation that starts with the default deadline sends nothing."""
    assert statements_for(flavour, remaining_s, 10.0, 10.0) is None


@pytest.mark.parametrize("flavour", SERVERS)
@pytest.mark.parametrize(("remaining_s", "changes"), [(10.2, False), (10.3, True), (5.0, False), (4.9, True)])
def test_material_difference_changes_a_servers_limits(flavour: Flavour, remaining_s: float, changes: bool) -> None:
    """Longer than the session's, or less than half of them."""
    assert (statements_for(flavour, remaining_s, 10.0, 10.0) is not None) is changes


def test_sqlite_follows_closely() -> None:
    """Nobody can cut its wait, and a change costs no round trip."""
    assert statements_for(Flavour.SQLITE, 9.8, 10.0, 10.0) == PushDown("PRAGMA busy_timeout=9700", 9.8)


def test_session_returns_to_the_default() -> None:
    """After a short operation the usual one sets the usual limits, not its own remaining time."""
    assert statements_for(Flavour.MYSQL, 9.99, 1.0, 10.0) == PushDown(statement_for(Flavour.MYSQL, 10.0), 10.0)


def test_postgresql_forgets_with_the_transaction() -> None:
    """Its limits are set for the transaction alone, so the session is at its default afterwards."""
    change = statements_for(Flavour.POSTGRESQL, 2.0, 10.0, 10.0)
    assert change == PushDown(
        "SELECT set_config('lock_timeout', '1900ms', true), set_config('statement_timeout', '2250ms', true), "
        "set_config('idle_in_transaction_session_timeout', '3000ms', true)",
        10.0,
    )


@pytest.mark.parametrize(
    ("remaining_s", "lock_s"), [(0.0, 1), (0.5, 1), (1.9, 1), (2.0, 1), (2.1, 2), (3.0, 2), (10.0, 9), (60.0, 59)]
)
def test_innodb_waits_whole_seconds_that_fit(remaining_s: float, lock_s: int) -> None:
    """Rounded down, so that the loser hears from the server before its deadline; but InnoDB knows nothing below 1 s."""
    for flavour in (Flavour.MARIADB, Flavour.MYSQL):
        limits = limits_for(flavour, remaining_s)
        assert limits["innodb_lock_wait_timeout"] == limits["lock_wait_timeout"] == str(lock_s)


@given(some_seconds, some_seconds, some_seconds)
def test_no_limit_is_ever_off(remaining_s: float, current_s: float, default_s: float) -> None:
    """0 means "for ever" to most servers, so no statement says it, and none is beyond a day."""
    for flavour in Flavour:
        for value in limits_for(flavour, remaining_s).values():
            number = float(value.strip("'ms"))
            assert 0 < number <= (DEADLINE_MAX_S + 2) * 1000
        change = statements_for(flavour, remaining_s, current_s, default_s)
        if change is not None:
            assert change.limits_s in (default_s, min(remaining_s, DEADLINE_MAX_S))


@given(st.floats(0.0, DEADLINE_MAX_S), st.floats(0.1, DEADLINE_MAX_S), st.floats(0.1, DEADLINE_MAX_S))
def test_limits_fit_after_the_decision(remaining_s: float, current_s: float, default_s: float) -> None:
    """Whatever a session was set up for, what holds next neither ends an operation early nor lasts materially longer."""
    for flavour in Flavour:
        # PostgreSQL's sessions are always at their default when a transaction begins.
        before_s = default_s if flavour is Flavour.POSTGRESQL else current_s
        change = statements_for(flavour, remaining_s, before_s, default_s)
        if change is None:
            holds_s = before_s
        elif flavour is Flavour.POSTGRESQL:
            holds_s = default_s if change.statement == statement_for(flavour, default_s) else remaining_s
        else:
            holds_s = change.limits_s
        assert holds_s + 0.25 >= remaining_s
        assert holds_s <= (remaining_s + 0.15 if flavour is Flavour.SQLITE else 2 * remaining_s)
        if change is not None and flavour is not Flavour.POSTGRESQL:
            assert statements_for(flavour, remaining_s, change.limits_s, default_s) is None
