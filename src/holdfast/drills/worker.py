"""One client process of a drill: `python -m holdfast.drills.worker`, started by the runner.

Reads its assignment as one line of JSON from standard input, which keeps the password in it out of the process list; then it
says that it is ready, and obeys orders: `start 1234.5` (at that moment of the monotonic clock), `disturb commit 0.2` and `heal
commit` (one of the faults that a process does to itself, `inside.py`), `stop`. It stops as well on SIGTERM, and when its standard
input ends, so it cannot outlive the runner.

Sends operations at a stated rate whether or not earlier ones have ended (an open loop), and writes each to its own history
before it acts, so that it can be killed at any moment. An operation's deadline counts from the moment at which it was due: one
whose time is over before a caller is free is written down as not sent. Says on standard output once a second how it goes.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
import math
import signal
import sys
import threading
import traceback
from collections import Counter
from dataclasses import asdict, dataclass, field, fields, replace
from pathlib import Path
from typing import Any

import psutil

from ..adaptive import Mode
from ..clock import SYSTEM_CLOCK, seeded_random
from ..deadline import current_deadline, within
from ..outcome import Stage
from .arrivals import arriving, watch
from .history import CONNECTING, NOT_SENT, Answer, History, HistoryWriter, OpenOperation, nanoseconds
from .inside import InsideFaults
from .starvation import Starvation
from .subjects import Remote, Subject, Terms, open_subject
from .workloads import Call, Identity, workload_named

__all__ = ["Assignment", "Tally", "main", "unfinished"]

HUNG_AFTER_S = 20.0
"""How long after its deadline an operation is given up: it is cut off, and its missing end stands in the history."""


@dataclass(frozen=True, slots=True)
class Assignment:
    """What a client process is told.

    Attributes:
        process: its number; also in the name of its history and of its operations.
        first_index: the number of its first operation.
        folder: where its history goes.
        url: the database, as its subject shall reach it.
        workload, subject, app: as in `DrillSettings`.
        known: what a remote subject's `set_up` has told.
        seed: of the drill.
        rate: operations a second, of this process alone, due whether or not a caller is free.
        callers: how many operations it may have under way at once.
        deadline_s, connections, flavour, limit: the subject's terms.
        drill: a tag of this run, in front of every key: an earlier run's keys may still be in the database.
        resume: the history of a killed client whose unfinished operations are to be asked for again, or None.
    """

    process: int
    folder: str
    url: str = field(repr=False)
    workload: str
    subject: str
    app: str | None
    known: dict[str, Any]
    seed: int
    rate: float
    callers: int
    deadline_s: float
    connections: int
    flavour: str
    drill: str
    limit: Mode = "off"
    first_index: int = 0
    resume: str | None = None

    @property
    def name(self) -> str:
        """How the history calls the process."""
        return f"w{self.process}"

    def to_json(self) -> str:
        """One line that `from_json` reads."""
        return json.dumps(asdict(self))

    @classmethod
    def from_json(cls, line: str) -> Assignment:
        """What `to_json` wrote."""
        found = json.loads(line)
        return cls(**{each.name: found[each.name] for each in fields(cls) if each.name in found})


class Tally:
    """What a client counts between two of its reports."""

    def __init__(self) -> None:
        self.counts: Counter[str] = Counter()

    def ended(self, answer: Answer, attempts: int) -> None:
        """An operation has ended."""
        self.counts[answer.value] += 1
        self.counts["attempts"] += attempts

    def take(self) -> dict[str, int]:
        """The counts since the last time."""
        taken, self.counts = self.counts, Counter()
        return dict(taken)


def unfinished(path: Path | str) -> list[tuple[str, dict[str, Any], str]]:
    """The operations that the history of a killed client tells of without an end: name, arguments, key."""
    return [
        (operation.name, dict(operation.value), operation.key)
        for operation in History.load(path).operations
        if operation.ended is None and operation.key is not None
    ]


class _Client:
    """Sends the operations of one process."""

    def __init__(self, assignment: Assignment, subject: Subject, writer: HistoryWriter, faults: InsideFaults) -> None:
        self._assignment = assignment
        self._subject = subject
        self._writer = writer
        self._faults = faults
        self._workload = workload_named(assignment.workload)
        self._tally = Tally()
        self._under_way: set[asyncio.Task[None]] = set()
        self._room = asyncio.Semaphore(assignment.callers)
        self._started: asyncio.Future[float] = asyncio.get_running_loop().create_future()
        self._stopping = asyncio.Event()
        self._stopped_s: float | None = None
        self._index = assignment.first_index
        self._process = psutil.Process()
        self._starvation = Starvation()

    def start(self, moment_s: float) -> None:
        """The first operation is due at `moment_s` of the monotonic clock."""
        if not self._started.done():
            self._started.set_result(moment_s)

    def stop(self) -> None:
        """Nothing is due any more from now on."""
        if self._stopped_s is None:
            self._stopped_s = SYSTEM_CLOCK.monotonic()
        self._stopping.set()
        self.start(SYSTEM_CLOCK.monotonic())

    async def run(self) -> None:
        """Send operations until told to stop, then wait for the last ones."""
        _tell({"ready": True})
        start_s = await self._started
        self._starvation.watch()
        reporting = asyncio.create_task(self._report())
        try:
            await self._resume()
            await self._generate(start_s)
            if self._under_way:
                await asyncio.wait(self._under_way)
        finally:
            reporting.cancel()
            self._starvation.stop()
            await asyncio.to_thread(self._faults.heal_all)  # before it is counted what is still checked out
            self._say(at_the_end=True)

    async def _resume(self) -> None:
        if self._assignment.resume is None or not self._subject.keyed:
            return  # without a key, asking again would be another operation
        for f, v, key in unfinished(self._assignment.resume):
            call = self._workload.again(f, v, key)
            if call is not None:
                await self._begin(call, SYSTEM_CLOCK.monotonic())

    async def _generate(self, due_s: float) -> None:
        assignment = self._assignment
        arrivals = seeded_random(_seed(assignment, "arrivals"))
        content = seeded_random(_seed(assignment, "content"))
        while True:
            # Poisson arrivals, as many independent callers make them.
            due_s += -math.log(1.0 - arrivals()) / assignment.rate
            await SYSTEM_CLOCK.wait_async(self._stopping, max(0.0, due_s - SYSTEM_CLOCK.monotonic()))
            if self._stopped_s is not None and due_s > self._stopped_s:
                return  # what was due before the end is still asked, or told of as not sent
            call = self._workload.next(content, Identity(assignment.process, self._index, assignment.drill))
            call = replace(call, key=f"{assignment.drill}.{call.key}")
            self._index += 1
            await self._begin(call, due_s)

    async def _begin(self, call: Call, due_s: float) -> None:
        if not await self._is_there_room(due_s + self._assignment.deadline_s):
            self._invoke(call, due_s).fail(error=NOT_SENT, attempts=0)
            self._tally.counts["unsent"] += 1
            return
        task = asyncio.create_task(self._operate(call, due_s))
        self._under_way.add(task)
        task.add_done_callback(self._under_way.discard)

    async def _is_there_room(self, until_s: float) -> bool:
        """Wait for a caller to be free, who then is taken; whether one was before `until_s`."""
        left_s = until_s - SYSTEM_CLOCK.monotonic()
        if left_s <= 0:
            return False
        if not self._room.locked():
            await self._room.acquire()
            return True
        try:
            async with asyncio.timeout(left_s):
                await self._room.acquire()
        except TimeoutError:
            return False
        return True

    def _invoke(self, call: Call, due_s: float) -> OpenOperation:
        deadline = nanoseconds(due_s + self._assignment.deadline_s)
        return self._writer.invoke(call.f, call.v, key=call.key, intended=nanoseconds(due_s), deadline=deadline)

    async def _operate(self, call: Call, due_s: float) -> None:
        # As in a service, whose request has a deadline when it comes in: whatever it waits for later, also for a thread, counts.
        left_s = max(0.0, due_s + self._assignment.deadline_s - SYSTEM_CLOCK.monotonic())
        with within(left_s):
            operation = self._invoke(call, due_s)
            try:
                await self._perform(call, operation)
            except Exception:
                # A defect of the drill or of its subject: nobody knows what became of the operation.
                traceback.print_exc()
                operation.info(error="Defect")
            finally:
                self._room.release()

    async def _perform(self, call: Call, operation: OpenOperation) -> None:
        with arriving() as arrival:
            performing = asyncio.ensure_future(self._subject.perform(call))
        if call.cancel_after is not None:
            asyncio.get_running_loop().call_later(call.cancel_after, performing.cancel)
        deadline = current_deadline()
        assert deadline is not None
        done, _ = await asyncio.wait([performing], timeout=max(0.0, deadline.remaining_s()) + HUNG_AFTER_S)
        if not done:
            performing.cancel()
            self._tally.counts["hung"] += 1
        elif performing.cancelled():
            operation.fail(error="CancelledError")
            self._tally.ended(Answer.FAIL, 1)
        else:
            reply = performing.result()
            end = {Answer.OK: operation.ok, Answer.FAIL: operation.fail, Answer.INFO: operation.info}[reply.answer]
            how = reply.how()
            came = {CONNECTING: True} if arrival.connecting and how["stage"] == Stage.CONNECT else {}
            end({**(reply.value or {}), **came}, **how)
            self._tally.ended(reply.answer, reply.attempts)

    # -- telling -----------------------------------------------------------------------------------------------------

    async def _report(self) -> None:
        while True:
            await SYSTEM_CLOCK.sleep_async(1.0)
            self._say()

    def _say(self, *, at_the_end: bool = False) -> None:
        counts = self._tally.take()
        # Only what is checked out in the end is a leak; a client that is killed does not come to that.
        connections = "checked_out" if at_the_end else "in_use"
        with self._process.oneshot():
            self._writer.sample(
                {
                    "fds": self._process.num_fds(),
                    "rss_bytes": self._process.memory_info().rss,
                    connections: self._subject.checked_out,
                    "under_way": len(self._under_way),
                    "starved": self._starvation.take(),
                }
            )
        if not _tell({**counts, "under_way": len(self._under_way), "index": self._index}):
            self.stop()


def _tell(said: dict[str, Any]) -> bool:
    """Tell the runner; whether it is still there."""
    try:
        print(json.dumps(said), flush=True)  # noqa: T201 - standard output is for the runner
    except BrokenPipeError:
        return False
    return True


def _seed(assignment: Assignment, what: str) -> int:
    """Another seed for each process and purpose, the same for the same drill."""
    text = f"{assignment.seed} {assignment.process} {what}"
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big")


# -- the process ---------------------------------------------------------------------------------------------------------


async def _work(assignment: Assignment) -> None:
    writer = HistoryWriter(Path(assignment.folder) / f"{assignment.name}.jsonl", assignment.name)
    terms = Terms(assignment.deadline_s, assignment.connections, assignment.flavour, assignment.limit)
    workload = workload_named(assignment.workload)
    subject = open_subject(assignment.subject, assignment.url, workload, terms, app=assignment.app)
    if isinstance(subject, Remote):
        subject.begin(assignment.known)
    if subject.engine is not None:
        watch(subject.engine)
    loop = asyncio.get_running_loop()
    faults = InsideFaults(_seed(assignment, "faults"), subject, writer, loop)
    client = _Client(assignment, subject, writer, faults)
    loop.add_signal_handler(signal.SIGTERM, client.stop)
    threading.Thread(target=_listen, args=(loop, client, faults), daemon=True).start()
    try:
        await client.run()
    finally:
        # Last word: whoever reads the history knows that what has not ended by now has hung.
        writer.close()
        async with asyncio.timeout(HUNG_AFTER_S):
            await subject.close()


def _listen(loop: asyncio.AbstractEventLoop, client: _Client, faults: InsideFaults) -> None:
    try:
        for line in sys.stdin:
            order, _, argument = line.strip().partition(" ")
            if order == "start":
                loop.call_soon_threadsafe(client.start, float(argument))
            elif order == "disturb":
                name, _, how = argument.partition(" ")
                faults.begin(name, how)
            elif order == "heal":
                faults.heal(argument)
            else:
                break
    except Exception:
        # A fault that did not happen must not pass for one that did no harm: the runner sees a client that went by itself.
        traceback.print_exc()
    loop.call_soon_threadsafe(client.stop)


def main() -> None:
    """Work until told to stop."""
    asyncio.run(_work(Assignment.from_json(sys.stdin.readline())))


if __name__ == "__main__":
    main()
