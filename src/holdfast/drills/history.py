"""The history of a drill: what was asked, what was answered, what went wrong meanwhile, and what is there in the end.

    with HistoryWriter(folder / "worker-1.jsonl", "w1") as writer:
        writer.meta({"seed": 7, "workload": "bank"})
        operation = writer.invoke("transfer", {"from": 1, "to": 2, "amount": 3, "id": "a"})     # written before acting
        operation.ok(attempts=2)                                                               # or .fail(), .info()

    history = History.load([folder])

JSON lines, one object a line, one file for each process of the operating system; the files are merged by `t`. Every line has
`type`, `t` (nanoseconds of CLOCK_MONOTONIC, which the processes of one machine share) and `p` (who wrote it):

    {"type":"meta","t":..,"p":..,"v":{"seed":7,"workload":"bank","durable":true,...}}
    {"type":"invoke","t":..,"p":"w1","i":812,"f":"transfer","key":"..","v":{..},"intended":ns,"deadline":ns}
    {"type":"ok"|"fail"|"info","t":..,"p":"w1","i":812,"f":"transfer","v":{..},"attempts":2,"stage":"commit","code":2013,
     "class":"ambiguous","error":"OutcomeUnknown","node":"n1"}
    {"type":"fault","t":..,"p":"nemesis","f":"kill-server","phase":"start"|"end","id":3,"v":{..}}
    {"type":"wire","t":..,"p":"proxy","f":"commit-forwarded","c":17,"v":{..}}
    {"type":"sample","t":..,"p":"runner","v":{"fds":40,"rss_bytes":..,"checked_out":0,..}}
    {"type":"final","t":..,"p":"runner","f":"bank","v":{..}}
    {"type":"phase","t":..,"p":"runner","f":"baseline"|"faults"|"healed"|"final","phase":"start"|"end"}
    {"type":"closed","t":..,"p":"w1"}

`ok` is done, `fail` is definitely not done, `info` is unknown. An invoke without an end counts as `info`: its process was killed
if its file lacks the line `closed`, and else the operation hung. The vocabulary is Jepsen's
(https://github.com/jepsen-io/jepsen, `jepsen.history`), so that its readers feel at home.
"""

from __future__ import annotations

import json
import sys
import threading
from bisect import bisect_right
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from enum import StrEnum
from functools import cached_property
from pathlib import Path
from types import TracebackType
from typing import Any, Literal, Self

from ..clock import SYSTEM_CLOCK, Clock
from ..errors import ConfigurationError, UsageError

__all__ = [
    "NS",
    "Answer",
    "FaultSpan",
    "Final",
    "History",
    "HistoryWriter",
    "OpenOperation",
    "Operation",
    "PhaseSpan",
    "Sample",
    "Wire",
    "nanoseconds",
]

NS = 1_000_000_000
"""Nanoseconds in a second."""

_CHUNK_LINES = 1_000  # parsed at once: quicker than one by one, and equal keys are kept once


def nanoseconds(monotonic_s: float) -> int:
    """A moment of a `Clock`, in seconds, as the history writes it."""
    return round(monotonic_s * NS)


# -- what a history holds ----------------------------------------------------------------------------------------------


class Answer(StrEnum):
    """What the caller of an operation was told."""

    OK = "ok"
    """Done."""
    FAIL = "fail"
    """Definitely not done."""
    INFO = "info"
    """Unknown; also an operation that never ended."""


@dataclass(frozen=True, slots=True)
class Operation:
    """One operation, its invoke and its end brought together. All moments are nanoseconds of CLOCK_MONOTONIC.

    Attributes:
        process, index: who asked, and its number; together they name the operation.
        name: what was asked: `transfer`, `insert`, ...
        value: its arguments.
        invoked: when it was begun.
        intended: when it should have been begun at the stated rate; `invoked` where nobody said.
        deadline: when it must have ended, or None.
        key: its idempotency key as the workload names it, or None.
        answer: what the caller was told.
        ended: when; None if it never was.
        killed: whether it did not end because its process was killed.
        result: what it returned or observed.
        attempts: how often it was tried; 0 where nobody said.
        stage, code, failure_class, error, node: how the last attempt failed, and on which server; each None where nobody said.
    """

    process: str
    index: int
    name: str
    value: Mapping[str, Any]
    invoked: int
    intended: int
    deadline: int | None
    key: str | None
    answer: Answer = Answer.INFO
    ended: int | None = None
    killed: bool = False
    result: Mapping[str, Any] = field(default_factory=dict)
    attempts: int = 0
    stage: str | None = None
    code: int | str | None = None
    failure_class: str | None = None
    error: str | None = None
    node: str | None = None

    def __str__(self) -> str:
        """How a report names it: enough to find its lines in the history."""
        return f"{self.process}/{self.index} {self.name} ({self.answer})"


@dataclass(frozen=True, slots=True)
class FaultSpan:
    """One fault, from its start to its heal, in nanoseconds; `end` is None if it never was healed."""

    process: str
    id: int
    name: str
    start: int
    end: int | None
    value: Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class PhaseSpan:
    """One phase of the run, in nanoseconds; `end` is None if the run was cut off in it."""

    name: str
    start: int
    end: int | None


@dataclass(frozen=True, slots=True)
class Wire:
    """One line of the proxy's log: what it saw, on which connection (None: not of one), at `t` nanoseconds."""

    t: int
    name: str
    connection: int | str | None
    value: Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Sample:
    """What was counted at `t` nanoseconds: file descriptors, memory, connections."""

    t: int
    process: str
    value: Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Final:
    """The state that was read back from the database at `t` nanoseconds, after the last heal."""

    t: int
    name: str
    value: Mapping[str, Any]


# -- writing -----------------------------------------------------------------------------------------------------------


class OpenOperation:
    """An operation that was begun. Exactly one of `ok`, `fail` and `info` ends it.

    Each takes what was observed, and how it went: `attempts`, and of the last failure its `stage`, `code` (number or SQLSTATE),
    `failure_class`, `error` (the name of the exception's class) and `node`. Safe to end from another thread.
    """

    __slots__ = ("_ended", "_writer", "index", "name", "process")

    def __init__(self, writer: HistoryWriter, process: str, index: int, name: str) -> None:
        self._writer = writer
        self._ended = False
        self.process = process
        self.index = index
        self.name = name

    def ok(self, value: Mapping[str, Any] | None = None, *, attempts: int | None = None, **how: Any) -> None:
        """It is done."""
        self._end(Answer.OK, value, attempts, how)

    def fail(self, value: Mapping[str, Any] | None = None, *, attempts: int | None = None, **how: Any) -> None:
        """It is definitely not done."""
        self._end(Answer.FAIL, value, attempts, how)

    def info(self, value: Mapping[str, Any] | None = None, *, attempts: int | None = None, **how: Any) -> None:
        """Nobody knows whether it is done."""
        self._end(Answer.INFO, value, attempts, how)

    def _end(
        self, answer: Answer, value: Mapping[str, Any] | None, attempts: int | None, how: Mapping[str, Any]
    ) -> None:
        if self._ended:
            raise UsageError(f"operation {self.process}/{self.index} has ended already")
        if not how.keys() <= _HOW.keys():
            raise UsageError(f"an end says {', '.join(_HOW)}, not {', '.join(sorted(how.keys() - _HOW.keys()))}")
        self._ended = True
        line: dict[str, Any] = {"i": self.index, "f": self.name}
        if value:
            line["v"] = value
        if attempts is not None:
            line["attempts"] = attempts
        line |= {_HOW[name]: said for name, said in how.items() if said is not None}
        self._writer._write(answer.value, self.process, line)


_HOW = {"stage": "stage", "code": "code", "failure_class": "class", "error": "error", "node": "node"}
"""What an end may say beside value and attempts, and the word for it in the line."""


class HistoryWriter:
    """One process's part of a history. Safe in threads and tasks; a line costs one write to the operating system.

    Each line is handed to the operating system before the call returns, so a killed process loses no line, and at most the
    last one is torn. A lost machine may lose more.

    Args:
        path: the file; created here, with its folder.
        process: who writes, unless a call says otherwise (`process=`): a worker, `nemesis`, `proxy`, `runner`.
        clock: where the time comes from; its moments must be CLOCK_MONOTONIC's for histories of several processes.

    Raises:
        ConfigurationError: the file exists. A process that was killed and started again is another one, with its own file.
    """

    def __init__(self, path: Path | str, process: str, *, clock: Clock = SYSTEM_CLOCK) -> None:
        self.path = Path(path)
        self.process = process
        self._clock = clock
        self._encode = json.JSONEncoder(separators=(",", ":"), allow_nan=False).encode
        self._lock = threading.Lock()
        self._index = 0
        self._fault_id = 0
        self.path.parent.mkdir(parents=True, exist_ok=True)
        try:
            # Unbuffered: what a line costs is one system call, and nothing waits in a process that may be killed.
            self._file = self.path.open("xb", buffering=0)
        except FileExistsError as error:
            raise ConfigurationError(f"{self.path} exists: give each process a file of its own") from error

    def now(self) -> int:
        """The present moment, in the history's nanoseconds: for `intended` and `deadline`."""
        return nanoseconds(self._clock.monotonic())

    def meta(self, value: Mapping[str, Any]) -> None:
        """What the run was made with: seed, command, versions, settings, workload, `durable`. The first line of a file."""
        self._write("meta", self.process, {"v": value})

    def invoke(
        self,
        name: str,
        value: Mapping[str, Any] | None = None,
        *,
        key: str | None = None,
        intended: int | None = None,
        deadline: int | None = None,
        process: str | None = None,
    ) -> OpenOperation:
        """Say that an operation begins; call it before acting, and end what it returns.

        Args:
            name: what is asked.
            value: its arguments, as JSON can hold them.
            key: its idempotency key, or a name for it.
            intended: when it should have begun at the stated rate, as of `now()`.
            deadline: when it must have ended, as of `now()`.
            process: the worker, where several share a writer.
        """
        process = process or self.process
        with self._lock:
            self._index += 1
            index = self._index
        line: dict[str, Any] = {"i": index, "f": name}
        if value:
            line["v"] = value
        if key is not None:
            line["key"] = key
        if intended is not None:
            line["intended"] = intended
        if deadline is not None:
            line["deadline"] = deadline
        self._write("invoke", process, line)
        return OpenOperation(self, process, index, name)

    def fault_start(self, name: str, value: Mapping[str, Any] | None = None) -> int:
        """Say that a fault begins, before causing it; the answer names it at its end."""
        with self._lock:
            self._fault_id += 1
            fault_id = self._fault_id
        self._write("fault", self.process, {"f": name, "phase": "start", "id": fault_id, "v": value or {}})
        return fault_id

    def fault_end(self, name: str, fault_id: int, value: Mapping[str, Any] | None = None) -> None:
        """Say that the fault is healed, after healing it."""
        self._write("fault", self.process, {"f": name, "phase": "end", "id": fault_id, "v": value or {}})

    def wire(
        self,
        name: str,
        connection: int | str | None = None,
        value: Mapping[str, Any] | None = None,
        *,
        t: int | None = None,
    ) -> None:
        """What a proxy saw: `connect`, `begin`, `commit-seen`, `commit-forwarded`, `commit-answered`, `cut`, `count`.

        `t` is when, in nanoseconds, if not now.
        """
        line: dict[str, Any] = {"f": name}
        if connection is not None:
            line["c"] = connection
        if value:
            line["v"] = value
        self._write("wire", self.process, line, t)

    def sample(self, value: Mapping[str, Any]) -> None:
        """What was counted just now."""
        self._write("sample", self.process, {"v": value})

    def final(self, name: str, value: Mapping[str, Any]) -> None:
        """The state read back from the database."""
        self._write("final", self.process, {"f": name, "v": value})

    @contextmanager
    def phase(self, name: str) -> Iterator[None]:
        """The `with` block is this phase of the run."""
        self._write("phase", self.process, {"f": name, "phase": "start"})
        try:
            yield
        finally:
            self._write("phase", self.process, {"f": name, "phase": "end"})

    def close(self) -> None:
        """Say that this process ended by itself. What has not ended by now hung. May be called again."""
        if not self._file.closed:
            self._write("closed", self.process, {})
            self._file.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        self.close()

    def _write(self, kind: str, process: str, rest: dict[str, Any], t: int | None = None) -> None:
        line = self._encode({"type": kind, "t": self.now() if t is None else t, "p": process, **rest})
        data = line.encode() + b"\n"
        with self._lock:
            if self._file.closed:
                raise UsageError(f"the history {self.path} is closed")
            # A full disk may take a part of it; the rest then raises.
            while data:
                data = data[self._file.write(data) or 0 :]


# -- reading -----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, eq=False)
class History:
    """A whole run, merged and checked: what the checkers judge. Immutable, so safe to share.

    Attributes:
        metas: what each file said of itself, in the order of time.
        operations: by the moment they were begun.
        faults, phases: by their start.
        wire, samples, finals: by their moment.
        start, end: the first and the last moment, nanoseconds; both 0 in an empty history.
    """

    metas: tuple[Mapping[str, Any], ...] = ()
    operations: tuple[Operation, ...] = ()
    faults: tuple[FaultSpan, ...] = ()
    phases: tuple[PhaseSpan, ...] = ()
    wire: tuple[Wire, ...] = ()
    samples: tuple[Sample, ...] = ()
    finals: tuple[Final, ...] = ()
    start: int = 0
    end: int = 0

    @classmethod
    def load(cls, paths: Iterable[Path | str] | Path | str) -> History:
        """Read and merge histories.

        Args:
            paths: files, and folders whose `*.jsonl` files are meant.

        Raises:
            ConfigurationError: there is no such file, or a line is damaged; the text names file and line. Only the last line
                of a file may be torn: that is how a killed process leaves it.
        """
        reader = _Reader()
        for path in _files(paths):
            reader.read(path)
        return reader.history()

    @classmethod
    def from_lines(cls, lines: Iterable[Mapping[str, Any]]) -> History:
        """The same from lines in memory, as of one file: for tests.

        Raises:
            ConfigurationError: a line is damaged; the text names its number.
        """
        reader = _Reader()
        reader.read_lines("history", lines)
        return reader.history()

    @cached_property
    def meta(self) -> Mapping[str, Any]:
        """What the run was made with; where files contradict each other, the earliest counts."""
        merged: dict[str, Any] = {}
        for meta in self.metas:
            merged = {**meta, **merged}
        return merged

    @cached_property
    def _by_name(self) -> Mapping[str, tuple[Operation, ...]]:
        found: dict[str, list[Operation]] = {}
        for operation in self.operations:
            found.setdefault(operation.name, []).append(operation)
        return {name: tuple(operations) for name, operations in found.items()}

    @cached_property
    def names(self) -> frozenset[str]:
        """The names of the operations that were asked."""
        return frozenset(self._by_name)

    def named(self, *names: str) -> tuple[Operation, ...]:
        """The operations of these names; of one name in the order of time."""
        return tuple(operation for name in names for operation in self._by_name.get(name, ()))

    def final(self, name: str) -> Final | None:
        """The last state of that name that was read back, or None."""
        return next((final for final in reversed(self.finals) if final.name == name), None)

    def phase(self, name: str) -> tuple[int, int] | None:
        """From when to when a phase took, nanoseconds; None if it never began."""
        for phase in self.phases:
            if phase.name == name:
                return phase.start, self.end if phase.end is None else phase.end
        return None

    def phase_at(self, t: int) -> str | None:
        """The phase that the moment `t` falls into, or None."""
        index = bisect_right(self.phases, t, key=lambda phase: phase.start) - 1
        if index < 0:
            return None
        phase = self.phases[index]
        return phase.name if phase.end is None or t <= phase.end else None

    @cached_property
    def last_heal(self) -> int | None:
        """When the last fault was healed, nanoseconds; None if there was none, or one never was."""
        ends = [fault.end for fault in self.faults]
        healed = [end for end in ends if end is not None]
        return max(healed) if healed and len(healed) == len(ends) else None

    def per_second(self, moments: Iterable[int], amounts: Iterable[float] | None = None) -> list[float]:
        """How much fell into each second of the run: a series to draw or to compare.

        Args:
            moments: nanoseconds; what lies outside of the run is left out.
            amounts: what each of them counts; 1 by default.

        Returns:
            One number for each second from `start` on; the last second may be a short one.
        """
        series = [0.0] * ((self.end - self.start) // NS + 1 if self.end > self.start else 0)
        start, end = self.start, self.end
        if amounts is None:
            for moment in moments:
                if start <= moment <= end:
                    series[(moment - start) // NS] += 1.0
        else:
            for moment, amount in zip(moments, amounts, strict=True):
                if start <= moment <= end:
                    series[(moment - start) // NS] += amount
        return series

    def second(self, t: int) -> int:
        """The second of the run that the moment `t` falls into, from 0."""
        return (t - self.start) // NS


def _files(paths: Iterable[Path | str] | Path | str) -> list[Path]:
    files: list[Path] = []
    for given in [paths] if isinstance(paths, (str, Path)) else paths:
        path = Path(given)
        found = sorted(path.glob("*.jsonl")) if path.is_dir() else [path]
        if not found:
            raise ConfigurationError(f"{path} holds no history: no *.jsonl file is in it")
        files += found
    return files


class _Damage(Exception):
    """A line is not what a history holds; the text says why."""


_Key = tuple[str, int]


class _Reader:
    """Turns lines into a history. Pairs within a file, whose order is the order of causes, and sorts in the end."""

    def __init__(self) -> None:
        self.metas: list[tuple[int, Mapping[str, Any]]] = []
        self.operations: list[Operation] = []
        self.faults: list[FaultSpan] = []
        self.phases: list[PhaseSpan] = []
        self.wire: list[Wire] = []
        self.samples: list[Sample] = []
        self.finals: list[Final] = []
        self.first: int | None = None
        self.last = 0
        self._source_of: dict[str, str] = {}
        self._begin_file("")

    def _begin_file(self, source: str) -> None:
        self._source = source
        self._ended: set[_Key] = set()
        self._invokes: dict[_Key, Mapping[str, Any]] = {}
        self._open_faults: dict[_Key, FaultSpan] = {}
        self._open_phases: dict[str, PhaseSpan] = {}
        self._closed = False

    def read(self, path: Path) -> None:
        try:
            with path.open("rb") as file:
                self.read_lines(str(path), _parsed(path, file))
        except OSError as error:
            raise ConfigurationError(f"cannot read the history {path}: {error.strerror}") from error

    def read_lines(self, source: str, lines: Iterable[Mapping[str, Any]]) -> None:
        self._begin_file(source)
        number = 0
        try:
            for line in lines:
                number += 1
                self._take(line)
        except _Damage as damage:
            raise ConfigurationError(f"{source}, line {number}: {damage}") from damage
        except (KeyError, TypeError, AttributeError) as error:
            raise ConfigurationError(f"{source}, line {number}: {_missing(error)}") from error
        for invoke in self._invokes.values():
            self.operations.append(_operation(invoke, None, killed=not self._closed))
        self.faults += self._open_faults.values()
        self.phases += self._open_phases.values()

    def history(self) -> History:
        return History(
            metas=tuple(meta for _, meta in sorted(self.metas, key=lambda entry: entry[0])),
            operations=tuple(sorted(self.operations, key=lambda operation: operation.invoked)),
            faults=tuple(sorted(self.faults, key=lambda fault: fault.start)),
            phases=tuple(sorted(self.phases, key=lambda phase: phase.start)),
            wire=tuple(sorted(self.wire, key=lambda wire: wire.t)),
            samples=tuple(sorted(self.samples, key=lambda sample: sample.t)),
            finals=tuple(sorted(self.finals, key=lambda final: final.t)),
            start=self.first or 0,
            end=self.last,
        )

    def _take(self, line: Mapping[str, Any]) -> None:
        kind, t, process = line["type"], line["t"], line["p"]
        if type(t) is not int or type(process) is not str:
            raise _Damage("t is whole nanoseconds, and p a name")
        if self._closed:
            raise _Damage("nothing may follow after the line `closed`")
        self.first = t if self.first is None else min(self.first, t)
        self.last = max(self.last, t)
        if kind == "invoke":
            self._take_invoke(line, (process, line["i"]))
        elif kind in ("ok", "fail", "info"):
            self._take_end(line, (process, line["i"]))
        elif kind == "wire":
            self.wire.append(Wire(t, sys.intern(line["f"]), line.get("c"), line.get("v") or _NOTHING))
        elif kind == "fault":
            self._take_fault(line, process, line["phase"])
        elif kind == "phase":
            self._take_phase(line["f"], t, line["phase"])
        elif kind == "sample":
            self.samples.append(Sample(t, process, line["v"]))
        elif kind == "final":
            self.finals.append(Final(t, line["f"], line["v"]))
        elif kind == "meta":
            self.metas.append((t, line["v"]))
        elif kind == "closed":
            self._closed = True
        else:
            raise _Damage(f"no line of a history has the type {kind!r}")

    def _take_invoke(self, line: Mapping[str, Any], key: _Key) -> None:
        other = self._source_of.setdefault(key[0], self._source)
        if other != self._source:
            raise _Damage(f"process {key[0]} has operations in {other} as well: processes share no name")
        if key in self._invokes or key in self._ended:
            raise _Damage(f"operation {key[0]}/{key[1]} is begun twice")
        for moment in ("intended", "deadline"):
            if type(line.get(moment, 0)) is not int:
                raise _Damage(f"{moment} is whole nanoseconds")
        self._invokes[key] = line

    def _take_end(self, line: Mapping[str, Any], key: _Key) -> None:
        invoke = self._invokes.pop(key, None)
        if invoke is None:
            ended = "ends twice" if key in self._ended else "ends, but never was begun"
            raise _Damage(f"operation {key[0]}/{key[1]} {ended}")
        if line["t"] < invoke["t"]:
            raise _Damage(f"operation {key[0]}/{key[1]} ends before it was begun")
        self._ended.add(key)
        self.operations.append(_operation(invoke, line))

    def _take_fault(self, line: Mapping[str, Any], process: str, phase: Literal["start", "end"]) -> None:
        key = (process, line["id"])
        if phase == "start":
            if key in self._open_faults:
                raise _Damage(f"fault {line['f']} {key[1]} begins twice")
            self._open_faults[key] = FaultSpan(process, key[1], line["f"], line["t"], None, line.get("v") or _NOTHING)
        elif phase == "end":
            begun = self._open_faults.pop(key, None)
            if begun is None:
                raise _Damage(f"fault {line['f']} {key[1]} ends, but never began")
            value = {**begun.value, **(line.get("v") or {})}
            self.faults.append(FaultSpan(process, begun.id, begun.name, begun.start, line["t"], value))
        else:
            raise _Damage(f"a fault's phase is start or end, not {phase!r}")

    def _take_phase(self, name: str, t: int, phase: Literal["start", "end"]) -> None:
        if phase == "start":
            self._open_phases[name] = PhaseSpan(name, t, None)
        elif phase == "end" and name in self._open_phases:
            self.phases.append(PhaseSpan(name, self._open_phases.pop(name).start, t))
        else:
            raise _Damage(f"phase {name} ends, but never began" if phase == "end" else f"what is {phase!r}?")


_NOTHING: Mapping[str, Any] = {}


def _operation(invoke: Mapping[str, Any], end: Mapping[str, Any] | None, *, killed: bool = False) -> Operation:
    t = invoke["t"]
    last = _NOTHING if end is None else end
    return Operation(
        process=sys.intern(invoke["p"]),
        index=invoke["i"],
        name=sys.intern(invoke["f"]),
        value=invoke.get("v") or _NOTHING,
        invoked=t,
        intended=invoke.get("intended", t),
        deadline=invoke.get("deadline"),
        key=invoke.get("key"),
        answer=_ANSWERS[last.get("type", "info")],
        ended=last.get("t"),
        killed=killed,
        result=last.get("v") or _NOTHING,
        attempts=last.get("attempts") or 0,
        stage=last.get("stage"),
        code=last.get("code"),
        failure_class=last.get("class"),
        error=last.get("error"),
        node=last.get("node"),
    )


_ANSWERS = {answer.value: answer for answer in Answer}


def _missing(error: Exception) -> str:
    return f"{error.args[0]!r} is missing" if isinstance(error, KeyError) else f"not a line of a history ({error})"


def _parsed(path: Path, file: Iterable[bytes]) -> Iterator[Mapping[str, Any]]:
    """The lines of a file; a torn last one is left out."""
    number = 0
    chunk: list[bytes] = []
    for line in file:
        chunk.append(line)
        if len(chunk) == _CHUNK_LINES:
            yield from _parse(path, number, chunk)
            number += len(chunk)
            chunk = []
    yield from _parse(path, number, chunk)


def _parse(path: Path, number: int, chunk: list[bytes]) -> Iterable[Mapping[str, Any]]:
    try:
        lines = json.loads(b"[" + b",".join(chunk) + b"]")
    except ValueError:
        lines = []
    return lines if len(lines) == len(chunk) else _parse_singly(path, number, chunk)


def _parse_singly(path: Path, number: int, chunk: list[bytes]) -> list[Mapping[str, Any]]:
    lines: list[Mapping[str, Any]] = []
    for offset, line in enumerate(chunk, start=1):
        try:
            parsed = json.loads(line)
        except ValueError as error:
            # Only the last line of a file has no end, and only a process that was killed leaves it so.
            if not line.endswith(b"\n"):
                return lines
            raise ConfigurationError(f"{path}, line {number + offset}: not JSON ({error})") from error
        lines.append(parsed)
    return lines
