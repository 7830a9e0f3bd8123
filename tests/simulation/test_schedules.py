"""Exactly once, the truth, and in time: under every schedule of at most two faults, for both shells."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from .__main__ import main
from .checks import complaints
from .enumeration import Findings, explore
from .faults import FAULTS, Fault, Schedule, Symptom
from .scenario import RIVALS, Case, Simulator

SHELLS = ("sync", "async")

SETTINGS = {
    "keyed": 4_800,
    "automatic": 2_300,
    "late": 1_950,
    "status": 1_700,
    "unprotected": 1_100,
    "keyed broke": 2_900,
    "status broke": 900,
    "keyed nested": 2_300,
    "status nested": 600,
    "automatic block": 1_300,
    "late block": 780,
    "status block": 750,
    "unprotected block": 400,
    "keyed outage": 4_600,
    "status outage": 1_700,
    "unprotected outage": 1_100,
    "status nested outage": 600,
    "automatic block outage": 1_300,
    "late outage": 1_800,
    "late block outage": 820,
    "status block outage": 750,
}
"""Every setting, with a little less than the number of its cases: with fewer, something keeps them from being played."""

# Where a setting never comes: what it has no key row for, and no status to ask.
_ABSENT = {
    "keyed": {"probe"},
    "automatic": {"store", "probe"},
    "late": {"store", "probe"},
    "status": {"claim", "store"},
    "unprotected": {"claim", "store", "probe"},
}


@pytest.fixture(scope="module")
def simulator() -> Iterator[Simulator]:
    """A simulator for the module: its event loop is worth keeping."""
    with Simulator() as simulator:
        yield simulator


def _assert_green(findings: Findings) -> None:
    assert not findings.red, str(findings)


@pytest.mark.parametrize("shell", SHELLS)
@pytest.mark.parametrize(("setting", "cases_min"), SETTINGS.items())
def test_every_schedule_of_two_faults(setting: str, cases_min: int, shell: str, simulator: Simulator) -> None:
    """Whatever two things go wrong, and wherever, every promise holds."""
    findings = explore(f"{shell} {setting}", simulator)
    _assert_green(findings)
    # Nothing passes because it did not run: each fault was met at each step that this setting has.
    assert findings.cases >= cases_min
    absent = _ABSENT[setting.partition(" ")[0]] | (set() if "outage" in setting else {"await"})
    due = {step: faults for step, faults in FAULTS.items() if step not in absent}
    missed = {(step, fault.name) for step, faults in due.items() for fault in faults} - set(findings.hit)
    assert not missed


@pytest.mark.parametrize("shell", SHELLS)
@pytest.mark.parametrize("rival", RIVALS)
def test_every_fault_beside_a_rival(rival: str, shell: str, simulator: Simulator) -> None:
    """While another caller's transaction holds the key, one fault anywhere breaks no promise."""
    findings = explore(f"{shell} keyed {rival}", simulator, faults_max=1)
    _assert_green(findings)
    assert findings.hit["claim", "deadlock"] >= 1
    assert findings.hit["rollback", "cancel-after"] >= 1


def _endless() -> Iterator[tuple[str, Fault]]:
    for step, faults in FAULTS.items():
        for fault in faults:
            if fault.symptom is not Symptom.CRASHED:
                yield step, fault


@pytest.mark.parametrize("shell", SHELLS)
@pytest.mark.parametrize("protection", _ABSENT)
@pytest.mark.parametrize("options", [(), ("outage",)], ids=["", "outage"])
def test_every_fault_that_never_ends(
    options: tuple[str, ...], protection: str, shell: str, simulator: Simulator
) -> None:
    """A fault that comes every time is answered by the deadline, within the attempts allowed, and truthfully."""
    findings = Findings()
    for step, fault in _endless():
        case = Case(shell, protection, frozenset(options), Schedule(((step, "*", fault),)))
        findings.cases += 1
        findings.red.extend((case, check, complaint) for check, complaint in complaints(simulator.play(case)))
    _assert_green(findings)
    assert findings.cases >= 80


def test_a_case_is_its_name(simulator: Simulator) -> None:
    """The line that a red case prints plays the same case again, to the same end."""
    text = "async keyed broke: commit.1=lost-late claim.2=lock-wait"
    stories = [simulator.play(Case.parse(text)) for _ in range(2)]
    assert str(Case.parse(text)) == text
    assert [fault.name for fault in stories[0].progress.hit] == ["lost-late", "lock-wait"]
    first, again = ([(call.name, call.value, call.ended_at, call.events) for call in s.everyone()] for s in stories)
    assert first == again


def test_the_replay_says_what_came_of_it() -> None:
    """`python -m tests.simulation` shows the steps, the answers and what the server has, and exits with 0 when all is well."""
    said: list[str] = []
    assert main("sync keyed: commit.1=lost-after", said.append) == 0
    text = "\n".join(said)
    assert "steps  begin.1 claim.1 debit.1 credit.1 store.1 commit.1 discard.1" in text
    assert "first: 'receipt 1'" in text
    assert text.endswith("nothing to complain about")


def test_a_case_that_is_misspelt_is_refused() -> None:
    """A setting that does not exist plays nothing."""
    with pytest.raises(ValueError, match="no such case: sync keyd"):
        Case.parse("sync keyd: ")
