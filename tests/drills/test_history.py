"""A history is written before anything happens, survives its writer's death, and says where it is damaged."""

from __future__ import annotations

import json
import threading
from pathlib import Path
from typing import Any

import pytest

from holdfast.drills.history import NS, Answer, History, HistoryWriter, Operation
from holdfast.errors import ConfigurationError, UsageError
from holdfast.testing import ManualClock


def lines(path: Path) -> list[dict[str, Any]]:
    """What stands in the file now, as another process would see it."""
    return [json.loads(line) for line in path.read_text("utf-8").splitlines()]


def invoke(index: int = 1, t: int = 1, process: str = "w1") -> dict[str, Any]:
    return {"type": "invoke", "t": t, "p": process, "i": index, "f": "insert"}


def end(index: int = 1, t: int = 2, answer: str = "ok", process: str = "w1") -> dict[str, Any]:
    return {"type": answer, "t": t, "p": process, "i": index, "f": "insert"}


def write(path: Path, *written: dict[str, Any] | str) -> Path:
    texts = [line if isinstance(line, str) else json.dumps(line) + "\n" for line in written]
    path.write_text("".join(texts), "utf-8")
    return path


def test_what_is_written_is_read(tmp_path: Path) -> None:
    """Every kind of line comes back as it was written, paired and in order."""
    clock = ManualClock()
    with HistoryWriter(tmp_path / "run.jsonl", "w1", clock=clock) as writer:
        writer.meta({"seed": 7})
        with writer.phase("baseline"):
            clock.advance(1.0)
            first = writer.invoke("insert", {"id": "a"}, key="k", intended=5, deadline=writer.now() + NS)
            clock.advance(0.5)
            first.ok({"n": 1}, attempts=2)
        fault = writer.fault_start("cut", {"times": 1})
        second = writer.invoke("insert", {"id": "b"}, process="w2")
        second.info(attempts=3, stage="commit", code=2013, failure_class="ambiguous", error="OutcomeUnknown", node="n1")
        writer.wire("commit-forwarded", 17)
        writer.sample({"fds": 9})
        clock.advance(1.0)
        writer.fault_end("cut", fault, {"hits": 1})
        writer.final("set", {"ids": ["a"]})
    history = History.load(tmp_path)
    zero = history.start
    assert history.meta == {"seed": 7}
    assert history.operations == (
        Operation(
            "w1", 1, "insert", {"id": "a"}, zero + NS, 5, zero + 2 * NS, "k", Answer.OK, zero + NS + NS // 2,
            result={"n": 1}, attempts=2,
        ),
        Operation(
            "w2", 2, "insert", {"id": "b"}, zero + 3 * NS // 2, zero + 3 * NS // 2, None, None, Answer.INFO,
            zero + 3 * NS // 2, attempts=3, stage="commit", code=2013, failure_class="ambiguous",
            error="OutcomeUnknown", node="n1",
        ),
    )  # fmt: skip
    assert [(fault.name, fault.start - zero, fault.end, dict(fault.value)) for fault in history.faults] == [
        ("cut", 3 * NS // 2, zero + 5 * NS // 2, {"times": 1, "hits": 1})
    ]
    assert history.last_heal == zero + 5 * NS // 2
    assert history.phase("baseline") == (zero, zero + 3 * NS // 2)
    assert (history.phase_at(zero + NS), history.phase_at(zero + 2 * NS)) == ("baseline", None)
    assert [(wire.name, wire.connection) for wire in history.wire] == [("commit-forwarded", 17)]
    assert [sample.value for sample in history.samples] == [{"fds": 9}]
    final = history.final("set")
    assert final is not None
    assert final.value == {"ids": ["a"]}
    assert history.final("bank") is None
    assert history.per_second([zero, zero + 1, zero + 2 * NS, zero - 1]) == [2, 0, 1]


def test_a_line_is_out_before_the_call_returns(tmp_path: Path) -> None:
    """An operation stands in the file before it can act: a process that is killed leaves it there."""
    writer = HistoryWriter(tmp_path / "run.jsonl", "w1")
    operation = writer.invoke("insert")
    assert [line["type"] for line in lines(writer.path)] == ["invoke"]
    operation.ok()
    assert [line["type"] for line in lines(writer.path)] == ["invoke", "ok"]
    writer.close()
    writer.close()
    assert [line["type"] for line in lines(writer.path)] == ["invoke", "ok", "closed"]


def test_missing_end_is_info(tmp_path: Path) -> None:
    """Without an end nobody knows; the line `closed` tells a hung operation from a killed process."""
    write(tmp_path / "killed.jsonl", invoke(process="killed"))
    write(tmp_path / "hung.jsonl", invoke(process="hung"), {"type": "closed", "t": 9, "p": "hung"})
    operations = {operation.process: operation for operation in History.load(tmp_path).operations}
    assert {name: (found.answer, found.ended, found.killed) for name, found in operations.items()} == {
        "killed": (Answer.INFO, None, True),
        "hung": (Answer.INFO, None, False),
    }


@pytest.mark.parametrize("torn", ['{"type":"ok","t":2,"p":"w', "{", '{"type":"ok","t":2,"p":"w1","i":1,"f":"insert"'])
def test_torn_last_line_is_left_out(tmp_path: Path, torn: str) -> None:
    """A killed process tears at most its last line, and what it began counts as unknown."""
    path = write(tmp_path / "run.jsonl", invoke(), torn)
    assert [operation.answer for operation in History.load(path).operations] == [Answer.INFO]


def test_a_last_line_without_its_end_counts_if_it_is_whole(tmp_path: Path) -> None:
    """The newline may be all that was torn off."""
    path = write(tmp_path / "run.jsonl", invoke(), json.dumps(end()))
    assert [operation.answer for operation in History.load(path).operations] == [Answer.OK]


@pytest.mark.parametrize(
    ("damaged", "why"),
    [
        ("not json\n", "not JSON"),
        ("1,2\n", "not JSON"),
        ("\n", "not JSON"),
        ("[]\n", "not a line"),
        ({"type": "invoke", "t": 1, "i": 1, "f": "x"}, "'p' is missing"),
        ({"type": "invoke", "t": 1.5, "p": "w", "i": 1, "f": "x"}, "whole nanoseconds"),
        ({"type": "sample", "t": "1", "p": "w", "v": {}}, "whole nanoseconds"),
        ({**invoke(2), "deadline": 1.5}, "deadline is whole nanoseconds"),
        ({"type": "surprise", "t": 1, "p": "w"}, "'surprise'"),
        (invoke(), "begun twice"),
        (end(index=2), "never was begun"),
        (end(t=0), "before it was begun"),
        ({"type": "fault", "t": 1, "p": "n", "f": "cut", "phase": "end", "id": 1}, "never began"),
        ({"type": "fault", "t": 1, "p": "n", "f": "cut", "phase": "middle", "id": 1}, "'middle'"),
        ({"type": "phase", "t": 1, "p": "n", "f": "faults", "phase": "end"}, "never began"),
        ({"type": "phase", "t": 1, "p": "n", "f": "faults", "phase": "middle"}, "'middle'"),
        ({"type": "meta", "t": 1, "p": "n", "v": 7}, "v is an object, not int"),
        ({"type": "meta", "t": 1, "p": "n", "v": None}, "v is an object, not NoneType"),
        ({"type": "meta", "t": 1, "p": "n"}, "'v' is missing"),
        ({"type": "sample", "t": 1, "p": "n", "v": []}, "v is an object, not list"),
        ({"type": "final", "t": 1, "p": "n", "f": "set", "v": "ids"}, "v is an object, not str"),
        ({"type": "wire", "t": 1, "p": "n", "f": "cut", "v": 1}, "v is an object, not int"),
        ({"type": "fault", "t": 1, "p": "n", "f": "cut", "phase": "start", "id": 1, "v": 1}, "v is an object, not int"),
        ({**invoke(2), "v": [1]}, "v is an object, not list"),
        ({**end(), "v": 1}, "v is an object, not int"),
    ],
)
def test_damage_is_told_with_file_and_line(tmp_path: Path, damaged: dict[str, Any] | str, why: str) -> None:
    """A history that cannot be trusted is refused, and the text says where to look."""
    path = write(tmp_path / "run.jsonl", invoke(), damaged, {"type": "closed", "t": 9, "p": "w1"})
    with pytest.raises(ConfigurationError, match=rf"run\.jsonl, line 2: .*{why}"):
        History.load(path)


def test_damage_far_down_is_told_with_its_line(tmp_path: Path) -> None:
    """Lines are parsed many at once, and yet counted singly."""
    good = [line for index in range(1, 1601) for line in (invoke(index), end(index))]
    with pytest.raises(ConfigurationError, match=r"line 3201: not JSON"):
        History.load(write(tmp_path / "json.jsonl", *good, "{]\n", invoke(1601)))
    with pytest.raises(ConfigurationError, match=r"line 3201: .* ends twice"):
        History.load(write(tmp_path / "twice.jsonl", *good, end(1600)))


def test_processes_share_no_name(tmp_path: Path) -> None:
    """Two files with operations of one process cannot be told apart, and are refused."""
    write(tmp_path / "a.jsonl", invoke(), end())
    write(tmp_path / "b.jsonl", invoke(2))
    with pytest.raises(ConfigurationError, match=r"b\.jsonl, line 1: process w1 .*a\.jsonl"):
        History.load(tmp_path)


def test_missing_files_are_told(tmp_path: Path) -> None:
    """No file, and a folder without one, is no empty history."""
    with pytest.raises(ConfigurationError, match="No such file"):
        History.load(tmp_path / "nothing.jsonl")
    with pytest.raises(ConfigurationError, match="holds no history"):
        History.load(tmp_path)


def test_files_are_merged_by_time(tmp_path: Path) -> None:
    """What several processes wrote stands in the order of time."""
    write(tmp_path / "b.jsonl", invoke(1, 5, "w2"), end(1, 6, process="w2"))
    write(tmp_path / "a.jsonl", invoke(1, 1), end(1, 9), invoke(2, 10))
    history = History.load(tmp_path)
    assert [(found.process, found.index) for found in history.operations] == [("w1", 1), ("w2", 1), ("w1", 2)]
    assert (history.start, history.end) == (1, 10)


def test_a_file_is_never_written_twice(tmp_path: Path) -> None:
    """A process that starts again is another one: appending would put a torn line in the middle."""
    HistoryWriter(tmp_path / "run.jsonl", "w1").close()
    with pytest.raises(ConfigurationError, match="file of its own"):
        HistoryWriter(tmp_path / "run.jsonl", "w1")


def test_an_operation_ends_once(tmp_path: Path) -> None:
    """A second end, a word that no line has, and a line after the close are mistakes of the workload."""
    with HistoryWriter(tmp_path / "run.jsonl", "w1") as writer:
        operation = writer.invoke("insert")
        with pytest.raises(UsageError, match="colour"):
            operation.ok(colour="red")
        operation.ok()
        with pytest.raises(UsageError, match="ended already"):
            operation.fail()
    with pytest.raises(UsageError, match="closed"):
        writer.invoke("insert")


def test_open_fault_and_phase_reach_to_the_end(tmp_path: Path) -> None:
    """A run that was cut off leaves them open, and the last heal unknown."""
    path = write(
        tmp_path / "run.jsonl",
        {"type": "phase", "t": 1, "p": "r", "f": "faults", "phase": "start"},
        {"type": "fault", "t": 2, "p": "r", "f": "cut", "phase": "start", "id": 1, "v": {}},
        {"type": "sample", "t": 7, "p": "r", "v": {}},
    )
    history = History.load(path)
    assert (history.phase("faults"), history.last_heal, history.faults[0].end) == ((1, 7), None, None)


def test_threads_share_a_writer(tmp_path: Path) -> None:
    """Lines of many threads never mix, and every operation has a number of its own."""
    with HistoryWriter(tmp_path / "run.jsonl", "w") as writer:

        def work(name: str) -> None:
            for _ in range(200):
                writer.invoke("insert", {"padding": "x" * 200}, process=name).ok()

        threads = [threading.Thread(target=work, args=(f"w{number}",)) for number in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    history = History.load(tmp_path)
    assert len({found.index for found in history.operations}) == 8 * 200
    assert all(found.answer is Answer.OK for found in history.operations)
