"""Reading histories: parsing, pairing, merging, and saying where one is damaged."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, Literal

from ...errors import ConfigurationError
from .events import Answer, FaultSpan, Final, Operation, PhaseSpan, Sample, Wire
from .whole import History

__all__ = ["Reader", "files"]

_CHUNK_LINES = 1_000  # parsed at once: quicker than one by one, and equal keys are kept once


def files(paths: Iterable[Path | str] | Path | str) -> list[Path]:
    """The files that are meant: those that are named, and the histories in the folders that are."""
    found_files: list[Path] = []
    for given in [paths] if isinstance(paths, (str, Path)) else paths:
        path = Path(given)
        found = sorted(path.glob("*.jsonl")) if path.is_dir() else [path]
        if not found:
            raise ConfigurationError(f"{path} holds no history: no *.jsonl file is in it")
        found_files += found
    return found_files


class _Damage(Exception):
    """A line is not what a history holds; the text says why."""


_Key = tuple[str, int]


class Reader:
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
        """Take in one file."""
        try:
            with path.open("rb") as file:
                self.read_lines(str(path), _parsed(path, file))
        except OSError as error:
            raise ConfigurationError(f"cannot read the history {path}: {error.strerror}") from error

    def read_lines(self, source: str, lines: Iterable[Mapping[str, Any]]) -> None:
        """Take in lines, as of one file that is called `source`."""
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
        """What was taken in, in the order of time."""
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
            self.wire.append(Wire(t, sys.intern(line["f"]), line.get("c"), _value(line)))
        elif kind == "fault":
            self._take_fault(line, process, line["phase"])
        elif kind == "phase":
            self._take_phase(line["f"], t, line["phase"])
        elif kind == "sample":
            self.samples.append(Sample(t, process, _object(line["v"])))
        elif kind == "final":
            self.finals.append(Final(t, line["f"], _object(line["v"])))
        elif kind == "meta":
            self.metas.append((t, _object(line["v"])))
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
        _value(line)
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
            self._open_faults[key] = FaultSpan(process, key[1], line["f"], line["t"], None, _value(line))
        elif phase == "end":
            begun = self._open_faults.pop(key, None)
            if begun is None:
                raise _Damage(f"fault {line['f']} {key[1]} ends, but never began")
            value = {**begun.value, **_value(line)}
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


def _value(line: Mapping[str, Any]) -> Mapping[str, Any]:
    return _object(line.get("v") or _NOTHING)


def _object(value: object) -> Mapping[str, Any]:
    if not isinstance(value, Mapping):
        raise _Damage(f"v is an object, not {type(value).__name__}")
    return value


def _operation(invoke: Mapping[str, Any], end: Mapping[str, Any] | None, *, killed: bool = False) -> Operation:
    t = invoke["t"]
    last = _NOTHING if end is None else end
    return Operation(
        process=sys.intern(invoke["p"]),
        index=invoke["i"],
        name=sys.intern(invoke["f"]),
        value=_value(invoke),
        invoked=t,
        intended=invoke.get("intended", t),
        deadline=invoke.get("deadline"),
        key=invoke.get("key"),
        answer=_ANSWERS[last.get("type", "info")],
        ended=last.get("t"),
        killed=killed,
        result=_value(last),
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
