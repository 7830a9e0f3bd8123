"""What the proxy saw: retries in an outage, COMMITs in doubt, and whether the faults met anything."""

from __future__ import annotations

import pytest

from holdfast.drills.checkers import amplification, coverage
from holdfast.drills.commits import ambiguous_commits
from holdfast.drills.verdict import Validity

from .histories import Story

# -- amplification -----------------------------------------------------------------------------------------------------


def refused(tries_per_operation: int, *, share: float = 1.0, outage: bool = True) -> Story:
    """A server that is away from 10 to 20 s: 20 operations a second, each with so many tries, or only a share of them."""
    told = Story().phase("baseline", 0, 10).phase("faults", 10, 20)
    told.fault("refuse", 10, 20, **({"outage": True} if outage else {}))
    connection = 0
    for number in range(600):
        at = number / 20
        away = 10 <= at < 20
        told.op("insert", {}, "fail" if away else "ok", at=at, took=0.001)
        for n in range(tries_per_operation if away and number % 100 < share * 100 else 1):
            connection += 1
            told.wire("connect", connection, at + n / 1000)
            if not away:
                told.wire("begin", connection, at + n / 1000)
    return told


@pytest.mark.parametrize("outage", [True, False], ids=["the fault says so", "nobody was served"])
def test_one_try_each_is_no_amplification(outage: bool) -> None:
    """A connection and its transaction are one try; the budget's floor of one a second comes on top."""
    verdict = amplification.check(refused(1, outage=outage).history())
    assert verdict.valid is Validity.VALID
    assert (verdict.counts["asked"], verdict.counts["tries"]) == (200, 200)
    assert verdict.counts["tries_per_operation_baseline"] == 1


@pytest.mark.parametrize("outage", [True, False], ids=["the fault says so", "nobody was served"])
def test_a_retry_storm_is_found(outage: bool) -> None:
    """Three tries each while the server is away."""
    verdict = amplification.check(refused(3, outage=outage).history())
    assert verdict.valid is Validity.INVALID
    assert verdict.counts["tries_per_operation_faults"] == 3


def test_a_tenth_and_the_floor_are_allowed() -> None:
    """200 operations in 10 s may have 220 tries, 10 for the time of the outage, and 10 that the budget had saved up."""
    assert amplification.check(refused(2, share=0.2).history()).valid is Validity.VALID
    assert amplification.check(refused(2, share=0.21).history()).valid is Validity.INVALID
    assert amplification.check(refused(2, share=0.2).history(), floor_per_second=0).valid is Validity.INVALID


def short_outages(tries_per_second: int, *, every: int = 4) -> Story:
    """Ten times a second in which nobody was served, at the rate of the deadline drills: 13 operations, and so many tries."""
    told = Story()
    connection = 0
    for number in range(10):
        start = 10 + number * every
        told.fault("blackhole", start, start + 1)
        for n in range(13):
            told.op("insert", {}, "fail", at=start + n / 14)
        for n in range(tries_per_second):
            connection += 1
            told.wire("connect", connection, start + n / (tries_per_second + 1))
    return told


@pytest.mark.parametrize(("tries", "valid"), [(14, Validity.VALID), (20, Validity.VALID), (30, Validity.INVALID)])
def test_short_outages_share_what_the_budget_has_saved_up(tries: int, valid: Validity) -> None:
    """Two processes refill two tries a second, and have 20 saved up once: 2.3 tries each soon are too many, 1.5 are not."""
    verdict = amplification.check(short_outages(tries).history(), floor_per_second=2.0)
    assert verdict.valid is valid
    assert verdict.counts["ratio"] == pytest.approx(tries / 13)
    if valid is Validity.INVALID:
        assert "in an outage of 1.0 s" in verdict.examples[0]


@pytest.mark.parametrize(
    ("attempts", "tries", "valid"), [(1, 50, Validity.VALID), (1, 90, Validity.INVALID), (2, 50, Validity.INVALID)]
)
def test_who_waits_when_an_outage_begins_has_asked(attempts: int, tries: int, valid: Validity) -> None:
    """50 wait through an outage in which all callers are taken: what they try in it is no retry, unless they had tried before."""
    told = Story().fault("refuse", 10, 15, outage=True)
    for _ in range(50):
        told.op("insert", {}, "ok", at=9.5, took=6.0, attempts=attempts)
    for n in range(tries):
        told.wire("connect", n, 10 + 5 * n / tries)
    verdict = amplification.check(told.history(), floor_per_second=2.0)
    assert verdict.valid is valid
    assert verdict.counts["asked"] == (50 if attempts == 1 else 0)


def test_the_floor_that_was_used_is_told() -> None:
    """Whoever reads the verdict sees the plain ratio, and how much of it only the floor allowed."""
    verdict = amplification.check(short_outages(20).history(), floor_per_second=2.0)
    assert verdict.reason == (
        "200 tries at the wire for 130 operations in 10.0 s of outage: 1.54 times "
        "(57 tries beyond 1.1 times by the budget's floor)"
    )


def test_retries_that_are_served_are_not_judged() -> None:
    """A fault under which operations succeed is no outage: settling doubts and reruns are worth it."""
    told = Story().fault("cut", 10, 20)
    for number in range(100):
        told.op("insert", {}, "ok", at=10 + number / 10)
        for attempt in range(3):
            told.wire("begin", number, 10 + number / 10 + attempt / 100)
    assert amplification.check(told.history()).valid is Validity.UNKNOWN
    assert not amplification.applies(told.history())


def test_counts_serve_where_single_lines_are_missing() -> None:
    """The greater of connections and transactions of each second."""
    told = Story().fault("refuse", 10, 20, outage=True)
    for second in range(10, 20):
        told.op("insert", {}, "fail", at=second + 0.5)
        told.wire("count", 0, second + 0.6, connects=5, begins=2)
    verdict = amplification.check(told.history())
    assert (verdict.valid, verdict.counts["tries"]) == (Validity.INVALID, 50)


def test_without_a_proxy_nothing_is_known() -> None:
    """What clients say of themselves is no proof."""
    told = Story().fault("refuse", 10, 20, outage=True).op("insert", {}, "fail", at=11)
    assert amplification.check(told.history()).valid is Validity.UNKNOWN


# -- overload ----------------------------------------------------------------------------------------------------------


def overloaded(tries_per_operation: int, *, turned_away: int = 0, waited: int = 0) -> Story:
    """20 s in which 20 operations a second come to the wire, each with so many tries, and others never get there."""
    told = Story().fault("overload", 10, 30, overload=True)
    connection = 0
    for number in range(400):
        at = 10 + number / 20
        told.op("insert", {}, "ok" if number % 3 else "fail", at=at, attempts=tries_per_operation)
        for _ in range(turned_away):
            told.op("insert", {}, "fail", at=at, attempts=1, stage="connect", error="LoadShed")
        for _ in range(waited):
            told.op("insert", {}, "fail", at=at, attempts=1, stage="connect", error="DeadlineExceeded")
        for n in range(tries_per_operation):
            connection += 1
            told.wire("connect", connection, at + n / 1000)
            told.wire("hit", connection, at + n / 1000, fault="queue", phase="before", kind="other")
            told.wire("begin", connection, at + 0.5 + n / 1000)
    return told


@pytest.mark.parametrize(("tries", "valid"), [(1, Validity.VALID), (2, Validity.INVALID)])
@pytest.mark.parametrize(("turned_away", "waited"), [(0, 0), (3, 0), (0, 3)])
def test_who_never_comes_to_the_wire_hides_no_retries_in_an_overload(
    tries: int, valid: Validity, turned_away: int, waited: int
) -> None:
    """Divided by all that was asked, two tries of each that came so far would look like half a one."""
    verdict = amplification.check(overloaded(tries, turned_away=turned_away, waited=waited).history())
    assert verdict.valid is valid
    assert (verdict.counts["ratio"], verdict.counts["overload_s"], verdict.counts["outage_s"]) == (tries, 20, 0)
    assert "operations that came so far in 20.0 s of overload" in verdict.reason


def test_who_was_being_connected_came_to_the_wire() -> None:
    """Its connection was a try; one that only waited for one of the pool's was none."""
    told = Story().fault("overload", 10, 30, overload=True)
    for number, connecting in enumerate((True, False)):
        result = {"connecting": True} if connecting else None
        told.op("insert", {}, "fail", result, at=11 + number, attempts=1, stage="connect")
    told.wire("connect", 1, 11)
    counts = amplification.check(told.history()).counts
    assert (counts["asked"], counts["tries"]) == (1, 1)


def test_a_try_is_one_from_its_first_statement_to_its_commit() -> None:
    """Also if the server never saw its first statement; on a connection that serves several, each transaction is one."""
    told = Story().wire("connect", 1, 1)
    for at in (1.0, 2.0, 3.0):
        told.wire("hit", 1, at, phase="before", kind="other")
        if at < 3.0:
            told.wire("begin", 1, at + 0.1).wire("hit", 1, at + 0.2, phase="before", kind="commit")
            told.wire("commit-answered", 1, at + 0.3)
    told.wire("cut", 1, 3.1, phase="before", kind="other")
    told.wire("connect", 2, 4).wire("begin", 2, 4.1).wire("begin", 2, 4.2)  # a rollback in between
    told.wire("connect", 3, 5).wire("hit", 3, 5.1, phase="always")
    assert len(amplification.wire_tries(told.history())) == 3 + 2 + 1


# -- ambiguous commits -------------------------------------------------------------------------------------------------


def test_a_commit_without_an_answer_is_ambiguous() -> None:
    """Seen or forwarded, and nothing came back on that connection before the next COMMIT or the end."""
    told = Story()
    told.wire("commit-seen", 1, 1).wire("commit-forwarded", 1, 1.1).wire("commit-answered", 1, 1.2)
    told.wire("commit-seen", 2, 2).wire("cut", 2, 2.1, fault="reset")
    told.wire("commit-seen", 3, 3).wire("commit-forwarded", 3, 3.1).wire("cut", 3, 3.2, applied=True)
    told.wire("commit-seen", 5, 3.3).wire("commit-forwarded", 5, 3.4).wire("cut", 5, 3.5, phase="answered", ok=False)
    told.wire("commit-forwarded", 4, 4).wire("commit-seen", 4, 5).wire("commit-answered", 4, 5.1)
    assert [(commit.where, commit.forwarded, commit.applied) for commit in ambiguous_commits(told.history())] == [
        ("connection 2", False, False),
        ("connection 3", True, True),
        ("connection 5", True, False),
        ("connection 4", True, None),
    ]


def test_without_a_proxy_the_operations_say_it() -> None:
    """Cut at COMMIT, in the end or on the way to it; or killed."""
    told = Story().op("insert", {}, "info", stage="commit", failure_class="ambiguous")
    told.op("insert", {}, "ok", stage="commit", failure_class="AMBIGUOUS")
    told.op("insert", {}, "ok", stage="commit", failure_class="contention")
    told.op("insert", {}, "info", stage="body", failure_class="ambiguous").op("insert", {}, took=None)
    assert [commit.where for commit in ambiguous_commits(told.history())] == [
        "w1/5 insert (info)",
        "w1/1 insert (info)",
        "w1/2 insert (ok)",
    ]


# -- coverage ----------------------------------------------------------------------------------------------------------


def met(*, fault_at: float = 5.0, ambiguous: int = 1, served: int = 10, failed: int = 0) -> Story:
    """A short run: a fault of a second, COMMITs in doubt in it, operations outside of it."""
    told = Story().fault("cut", fault_at, fault_at + 1).op("insert", {}, at=4.9, took=0.5)
    for connection in range(ambiguous):
        told.wire("commit-forwarded", connection, 5.5)
    for _ in range(served):
        told.op("insert", {}, at=8)
    for _ in range(failed):
        told.op("insert", {}, "fail", at=8, code=2003)
    return told


def test_enough_makes_it_valid() -> None:
    """A fault that met an operation, a COMMIT in doubt, and a system that works without faults."""
    assert coverage.check(met().history()).valid is Validity.VALID


@pytest.mark.parametrize(
    ("told", "why"),
    [
        (met(fault_at=6.5), "0 of 1 faults met"),
        (met(ambiguous=0), "0 of 1 COMMITs"),
        (met(served=5, failed=6), "45% of the operations"),
    ],
)
def test_too_little_makes_it_unknown(told: Story, why: str) -> None:
    """Each of the three conditions alone, and the reason says which."""
    verdict = coverage.check(told.history())
    assert verdict.valid is Validity.UNKNOWN
    assert why in verdict.reason


def test_a_longer_run_must_meet_more() -> None:
    """One fault for every 30 s and one COMMIT for every 10 s, unless somebody says otherwise."""
    told = met(ambiguous=7).sample(70.0)
    assert coverage.check(told.history()).reason.startswith("too little happened: 1 of 3 faults")
    assert coverage.check(told.history(), faults_min=1).reason.startswith("too little happened: 7 of 8 COMMITs")
    assert coverage.check(told.history(), faults_min=1, ambiguous_min=7).valid is Validity.VALID


def test_an_operation_that_never_ended_met_every_later_fault() -> None:
    """It is under way until the end of the history."""
    told = Story().op("insert", {}, at=1, took=None).fault("cut", 5, 6).wire("commit-seen", 1, 5.5)
    assert coverage.check(told.history()).counts["faults_met"] == 1
