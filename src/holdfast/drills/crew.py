"""The client processes of a drill, seen from the runner: start, order about, kill with SIGKILL, bring back, stop."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
from collections import Counter
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from ..clock import SYSTEM_CLOCK
from ..errors import DrillFailed
from .worker import HUNG_AFTER_S, Assignment

__all__ = ["Crew"]

READY_WITHIN_S = 60.0
_STEP_S = 0.02
_LOOKS = 50
_TAIL_BYTES = 1 << 16


class _Member:
    """One running client process."""

    def __init__(self, assignment: Assignment, folder: Path) -> None:
        self.assignment = assignment
        self.counts: Counter[str] = Counter()
        self.under_way = 0
        self.index = assignment.first_index
        self.is_ready = False
        self.is_stopping = False
        self._log = folder / f"{assignment.name}.log"
        with self._log.open("wb") as log:
            self.process = subprocess.Popen(  # noqa: S603 - our own command
                [sys.executable, "-m", f"{__package__}.worker"],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=log,
                text=True,
                # The user's own functions must be found there as they are here.
                env={**os.environ, "PYTHONPATH": os.pathsep.join(path or "." for path in sys.path)},
                # Ctrl-C is for the runner, which then stops its clients in good order.
                start_new_session=True,
            )
        self.order(assignment.to_json())
        self._reader = threading.Thread(target=self._read, name=f"drill-{assignment.name}", daemon=True)
        self._reader.start()

    def order(self, line: str) -> None:
        """Send one line; a process that has gone does not hear it."""
        assert self.process.stdin is not None
        with suppress(OSError, ValueError):
            self.process.stdin.write(line + "\n")
            self.process.stdin.flush()

    def _read(self) -> None:
        assert self.process.stdout is not None
        for line in self.process.stdout:
            with suppress(ValueError):  # what is not JSON was printed by somebody's code
                self._hear(json.loads(line))

    def _hear(self, said: Any) -> None:
        if not isinstance(said, dict):
            return
        self.is_ready |= said.pop("ready", False)
        self.under_way = said.pop("under_way", self.under_way)
        self.index = said.pop("index", self.index)
        self.counts.update(said)

    def end(self, timeout_s: float) -> None:
        """Wait until the process has gone; kill it when that takes too long."""
        self.is_stopping = True
        try:
            self.process.wait(timeout_s)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
        self._reader.join(timeout_s)
        for pipe in (self.process.stdin, self.process.stdout):
            assert pipe is not None
            with suppress(OSError):
                pipe.close()
        if self._log.exists() and self._log.stat().st_size == 0:
            self._log.unlink()

    def complaint(self) -> str:
        """The end of what it printed."""
        return self._log.read_text(errors="replace")[-2000:] if self._log.exists() else "(nothing)"


class Crew:
    """The client processes of one drill. Orders may come from any thread.

    Args:
        assignment: what they are told; `process` and `first_index` are filled in here.
        workers: how many there are; rate and callers of the assignment are theirs together.

    Raises:
        DrillFailed: one does not become ready within a minute.
    """

    def __init__(self, assignment: Assignment, workers: int) -> None:
        self._folder = Path(assignment.folder)
        self._share = replace(
            assignment,
            rate=assignment.rate / workers,
            callers=max(1, assignment.callers // workers),
            connections=max(1, assignment.connections // workers),
        )
        self._lock = threading.Lock()
        self._spawned = 0
        self._turn = 0
        self._start_s: float | None = None
        self._standing: dict[str, str] = {}
        self._past: Counter[str] = Counter()
        self._members: list[_Member] = []
        try:
            for _ in range(workers):
                self._members.append(self._spawn(0, None))
            self._wait_until_ready(self._members)
        except BaseException:
            self.close()
            raise

    def start(self, moment_s: float) -> None:
        """Have the first operations begin at `moment_s` of the monotonic clock."""
        self._start_s = moment_s
        self._order(f"start {moment_s}")

    def disturb(self, fault: str, argument: str = "") -> None:
        """Have every process do one of `inside.INSIDE` to itself, those that are started later as well, until it is healed."""
        self._standing[fault] = f"disturb {fault} {argument}".rstrip()
        self._order(self._standing[fault])

    def heal(self, fault: str) -> None:
        """Have it healed in every process; nothing to do where it is not there."""
        self._standing.pop(fault, None)
        self._order(f"heal {fault}")

    def stop_one(self) -> int:
        """Ask the next client in turn by SIGTERM to end what it has begun and go; its place in the crew, for `bring_back`."""
        with self._lock:
            place = self._next_place()
            member = self._members[place]
            member.is_stopping = True
            member.process.terminate()
        return place

    def kill_one(self) -> int:
        """End the next client in turn with SIGKILL, in the middle of an operation; its place in the crew, for `bring_back`.

        If it is idle it is killed all the same, after a second of waiting for it to be busy.
        """
        with self._lock:
            place = self._next_place()
            member = self._members[place]
            member.is_stopping = True
            history = self._folder / f"{member.assignment.name}.jsonl"
            for _ in range(_LOOKS):
                member.process.send_signal(signal.SIGSTOP)  # so that what is seen is still so when it dies
                if _is_busy(history):
                    break
                member.process.send_signal(signal.SIGCONT)
                SYSTEM_CLOCK.sleep(_STEP_S)
            member.process.kill()
            member.process.wait()
        return place

    def _next_place(self) -> int:
        place = self._turn % len(self._members)
        self._turn += 1
        return place

    def bring_back(self, place: int) -> None:
        """Start the successor of a client that was told to go, which asks again for what was left unfinished, where it may."""
        with self._lock:
            dead = self._members[place]
            dead.end(self._share.deadline_s + 2 * HUNG_AFTER_S)
            self._past += dead.counts
            successor = self._spawn(dead.index, self._folder / f"{dead.assignment.name}.jsonl")
            self._members[place] = successor
        self._wait_until_ready([successor])
        for order in self._standing.values():
            successor.order(order)
        successor.order(f"start {SYSTEM_CLOCK.monotonic()}")

    def stop(self) -> None:
        """Begin no more operations, and wait until the last ones have ended or hung."""
        self._order("stop")
        self._end(self._share.deadline_s + 2 * HUNG_AFTER_S)

    def close(self) -> None:
        """End whatever still runs."""
        for member in self._members:
            if member.process.poll() is None:
                member.process.kill()
        self._end(READY_WITHIN_S)

    def check(self) -> None:
        """Make sure that nobody went down by itself.

        Raises:
            DrillFailed: somebody did.
        """
        for member in list(self._members):
            if member.process.poll() is not None and not member.is_stopping:
                raise DrillFailed(
                    f"the client process {member.assignment.name} ended with {member.process.returncode}:\n"
                    f"{member.complaint()}"
                )

    @property
    def counts(self) -> Counter[str]:
        """What all have counted since the beginning: `ok`, `fail`, `info`, `unsent`, `attempts`, `hung`."""
        with self._lock:
            return sum((member.counts for member in self._members), Counter(self._past))

    @property
    def under_way(self) -> int:
        """How many operations are under way."""
        return sum(member.under_way for member in list(self._members))

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, exc_type: type[BaseException] | None, exc: BaseException | None, tb: TracebackType | None
    ) -> None:
        self.close()

    def _spawn(self, first_index: int, resume: Path | None) -> _Member:
        self._spawned += 1
        assignment = replace(
            self._share,
            process=self._spawned,
            first_index=first_index,
            resume=str(resume) if resume is not None else None,
        )
        return _Member(assignment, self._folder)

    def _order(self, line: str) -> None:
        for member in list(self._members):
            member.order(line)

    def _end(self, timeout_s: float) -> None:
        for member in list(self._members):
            member.end(timeout_s)

    def _wait_until_ready(self, members: Sequence[_Member]) -> None:
        give_up_at = SYSTEM_CLOCK.monotonic() + READY_WITHIN_S
        while not all(member.is_ready for member in members):
            self.check()
            if SYSTEM_CLOCK.monotonic() > give_up_at:
                late = next(member for member in members if not member.is_ready)
                raise DrillFailed(f"a client process was not ready after {READY_WITHIN_S:g} s:\n{late.complaint()}")
            SYSTEM_CLOCK.sleep(_STEP_S)


def _is_busy(history: Path) -> bool:
    """Whether an operation is under way, by the end of a client's history."""
    with history.open("rb") as file:
        size = file.seek(0, os.SEEK_END)
        file.seek(max(0, size - _TAIL_BYTES))
        lines = file.read().splitlines()
    under_way: set[int] = set()
    for line in lines:
        with suppress(ValueError):  # the first one may be cut off
            found = json.loads(line)
            if found["type"] == "invoke":
                under_way.add(found["i"])
            elif "i" in found:
                under_way.discard(found["i"])
    return bool(under_way)
