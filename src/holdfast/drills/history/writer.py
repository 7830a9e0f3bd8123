"""Writing a history: each line is handed to the operating system before what it announces begins."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from ...clock import SYSTEM_CLOCK, Clock
from ...errors import ConfigurationError, UsageError
from .events import Answer, nanoseconds

__all__ = ["HistoryWriter", "OpenOperation"]


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
