"""The nemesis keeps to its schedule, writes every fault down and heals it, whatever happens."""

from __future__ import annotations

import atexit
import subprocess
import sys
from collections.abc import Mapping
from typing import Any

import pytest

from holdfast.drills.history import History, HistoryWriter
from holdfast.drills.nemesis import Nemesis
from holdfast.drills.schedule import Planned, Schedule, Scope, plan
from holdfast.testing import ManualClock

Lines = list[tuple[float, str, str]]


class _Recorder:
    """Notes down when what was written, beside what faults did."""

    def __init__(self, clock: ManualClock) -> None:
        self.clock = clock
        self.lines: Lines = []
        self.told: list[Mapping[str, Any]] = []
        self._number = 0

    def note(self, what: str, name: str) -> None:
        self.lines.append((round(self.clock.monotonic(), 6), what, name))

    def fault_start(self, name: str, value: Mapping[str, Any] | None = None) -> int:
        self.note("begins", name)
        self._number += 1
        return self._number

    def fault_end(self, name: str, fault_id: int, value: Mapping[str, Any] | None = None) -> None:
        assert fault_id == self._number
        self.note("ended", name)
        self.told.append(value or {})


class _Fault:
    """Does nothing but take time, and fail if told to."""

    def __init__(
        self, recorder: _Recorder, name: str, fails: BaseException | None = None, healing_s: float = 0.0
    ) -> None:
        self.name = name
        self._recorder = recorder
        self._fails = fails
        self._healing_s = healing_s

    def start(self) -> dict[str, Any]:
        self._recorder.note("harms", self.name)
        if self._fails is not None:
            raise self._fails
        return {"pid": 1}

    def heal(self) -> None:
        self._recorder.clock.advance(self._healing_s)
        self._recorder.note("heals", self.name)


def _entry(name: str, start_s: float, duration_s: float = 5.0) -> Planned:
    return Planned(name, start_s, duration_s, Scope.ONE, (0,), (0,))


SCHEDULE = Schedule((_entry("a", 6.0), _entry("b", 16.0)), 6.0, 30.0, 45.0)


@pytest.fixture
def recorder() -> _Recorder:
    """Where everything is noted down, from moment 0 on."""
    return _Recorder(ManualClock(0.0))


def test_faults_come_and_go_as_planned(recorder: _Recorder) -> None:
    """Each is written down before it acts, and after it is healed."""
    Nemesis(SCHEDULE, lambda planned: _Fault(recorder, planned.fault), recorder, recorder.clock).run()
    assert recorder.lines == [
        (6.0, "begins", "a"),
        (6.0, "harms", "a"),
        (11.0, "heals", "a"),
        (11.0, "ended", "a"),
        (16.0, "begins", "b"),
        (16.0, "harms", "b"),
        (21.0, "heals", "b"),
        (21.0, "ended", "b"),
    ]
    assert recorder.told[0] == {"scope": "one", "nodes": [0], "pid": 1}


@pytest.mark.parametrize("error", [RuntimeError("half done"), KeyboardInterrupt()], ids=repr)
def test_half_a_fault_is_healed(recorder: _Recorder, error: BaseException) -> None:
    """A fault that fails while it begins is healed and written down as healed, and the drill hears of it."""
    nemesis = Nemesis(SCHEDULE, lambda planned: _Fault(recorder, planned.fault, error), recorder, recorder.clock)
    with pytest.raises(type(error)):
        nemesis.run()
    assert [what for _, what, _ in recorder.lines] == ["begins", "harms", "heals", "ended"]
    assert nemesis.active is None


def test_interrupt_in_the_middle_heals(recorder: _Recorder, monkeypatch: pytest.MonkeyPatch) -> None:
    """Ctrl-C while a fault is active heals it on the way out."""

    def sleep(seconds: float) -> None:
        if recorder.clock.monotonic() > 8:
            raise KeyboardInterrupt
        recorder.clock.advance(seconds)

    monkeypatch.setattr(ManualClock, "sleep", lambda _, seconds: sleep(seconds))
    with pytest.raises(KeyboardInterrupt):
        Nemesis(SCHEDULE, lambda planned: _Fault(recorder, planned.fault), recorder, recorder.clock).run()
    assert [what for _, what, _ in recorder.lines] == ["begins", "harms", "heals", "ended"]


def test_stop_heals_within_a_tenth_of_a_second_and_begins_no_more(
    recorder: _Recorder, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A drill that is over early leaves nothing broken."""
    nemesis = Nemesis(SCHEDULE, lambda planned: _Fault(recorder, planned.fault), recorder, recorder.clock)

    def sleep(seconds: float) -> None:
        recorder.clock.advance(seconds)
        if recorder.clock.monotonic() >= 8:
            assert nemesis.active == "a"
            nemesis.stop()

    monkeypatch.setattr(ManualClock, "sleep", lambda _, seconds: sleep(seconds))
    nemesis.run()
    assert [(what, name) for _, what, name in recorder.lines][2:] == [("heals", "a"), ("ended", "a")]
    assert recorder.lines[-1][0] == pytest.approx(8.0, abs=0.11)


def test_slow_healing_shortens_or_skips_what_follows(recorder: _Recorder) -> None:
    """The healed phase begins when it was planned, whatever the faults before it took."""
    schedule = Schedule((_entry("a", 6.0), _entry("b", 16.0), _entry("c", 26.0)), 6.0, 31.0, 45.0)
    nemesis = Nemesis(
        schedule,
        lambda planned: _Fault(recorder, planned.fault, healing_s={"a": 12.0, "c": 0.0}.get(planned.fault, 3.0)),
        recorder,
        recorder.clock,
    )
    nemesis.run()
    assert [(at, name) for at, what, name in recorder.lines if what == "harms"] == [(6.0, "a"), (26.0, "c")]


def test_whole_drill_goes_into_a_history(tmp_path: Any) -> None:
    """What the nemesis writes is what the checkers read."""
    clock = ManualClock()
    with HistoryWriter(tmp_path / "nemesis.jsonl", "nemesis") as writer:
        recorder = _Recorder(clock)
        Nemesis(plan(3, ["a", "b"], 60.0), lambda planned: _Fault(recorder, planned.fault), writer, clock).run()
    faults = History.load([tmp_path]).faults
    assert len(faults) == 3
    assert {fault.name for fault in faults} == {"a", "b"}


def test_nothing_is_left_for_the_end_of_the_interpreter(recorder: _Recorder, monkeypatch: pytest.MonkeyPatch) -> None:
    """What was registered for the end is taken back when the drill is over."""
    registered: list[object] = []
    monkeypatch.setattr(atexit, "register", registered.append)
    monkeypatch.setattr(atexit, "unregister", registered.remove)
    Nemesis(SCHEDULE, lambda planned: _Fault(recorder, planned.fault), recorder, recorder.clock).run()
    assert registered == []


def test_end_of_the_interpreter_heals() -> None:
    """A nemesis in a thread of its own is healed when the program ends around it."""
    program = """
import threading
from holdfast.drills.nemesis import Nemesis
from holdfast.drills.schedule import plan

begun = threading.Event()

class Fault:
    name = "a"
    def start(self):
        begun.set()
        return {}
    def heal(self):
        print("healed", flush=True)

class Recorder:
    def fault_start(self, name, value=None):
        return 1
    def fault_end(self, name, fault_id, value=None):
        pass

schedule = plan(1, ["a"], 600, spacing_s=600, baseline_s=0, healed_s=0)
import dataclasses
first = dataclasses.replace(schedule.faults[0], start_s=0.0)
nemesis = Nemesis(dataclasses.replace(schedule, faults=(first,)), lambda planned: Fault(), Recorder())
threading.Thread(target=nemesis.run, daemon=True).start()
begun.wait(30)
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=60, check=True)
    assert done.stdout.split() == ["healed"]
