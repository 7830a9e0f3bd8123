"""The runner: brings workload, subject and faults together, writes the history, has the checkers judge it.

    result = run(DrillSettings(server="mariadb", workload="bank", seconds=20, output=Path("drill")), print)
    result.validity, result.verdicts

Phases: `baseline` (nothing goes wrong), `faults`, `healed` (nothing any more, under the same load), `final` (the clients have
gone, and the state is read back from the database itself). However it ends, everything is healed, stopped and removed; the
history stays.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, ExitStack, contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

from ..clock import SYSTEM_CLOCK, new_token
from ..errors import ConfigurationError, DrillFailed
from .checkers import Limits, check, overall
from .commits import ambiguous_commits
from .crew import Crew
from .disturbances import LASTING, PASSING, check_faults, lasting_fault, passing_fault
from .endings import orderly_end
from .faults import Fault
from .given import place_of, read_service
from .guard import check_target
from .history import Answer, History, HistoryWriter
from .nemesis import Nemesis
from .place import Place, open_place
from .schedule import Scope, plan
from .state import DatabaseState
from .subjects import SUBJECTS, Remote, Terms, driver_of, open_subject
from .versions import versions
from .worker import Assignment
from .workloads import TableWorkload, workload_named

if TYPE_CHECKING:
    from .settings import DrillSettings
    from .verdict import Validity, Verdict

__all__ = ["FAULTS", "DrillResult", "Progress", "Service", "judged", "run", "summary_of"]

_LEAD_S = 0.2
_STEP_S = 0.05

FAULTS = (*LASTING, *PASSING)
"""The names that `DrillSettings.faults` may hold."""

_AROUND_A_SERVICE = ("kill-client", "stop-client")
"""The faults that need neither the service nor its database."""

Service = Callable[[str], AbstractContextManager[str]]
"""Starts a service on the database URL that it is given, for the length of a block; the block is told its address."""


@dataclass(frozen=True, slots=True)
class Progress:
    """How a drill stands.

    Attributes:
        phase: `setup`, `baseline`, `faults`, `healed`, `final`.
        elapsed_s, left_s: seconds since its first operation, and until its last as planned.
        goodput_per_s, attempts_per_s: operations acknowledged, and attempts of operations that ended, in the last second.
        ok, failed, unknown: answers so far.
        attempts: attempts so far.
        unsent: operations that were due, and no caller was free for, so far.
        under_way: operations without an answer yet.
        faults: what is broken at the moment.
        faults_begun: how many faults there were so far.
    """

    phase: str
    elapsed_s: float
    left_s: float
    goodput_per_s: float = 0.0
    attempts_per_s: float = 0.0
    ok: int = 0
    failed: int = 0
    unknown: int = 0
    attempts: int = 0
    unsent: int = 0
    under_way: int = 0
    faults: tuple[str, ...] = ()
    faults_begun: int = 0


@dataclass(frozen=True, slots=True)
class DrillResult:
    """What came of a drill.

    Attributes:
        settings: what was asked for.
        history_path: the folder with the history, for `History.load`.
        verdicts: what the checkers say.
        summary: the figures, by name; see `summary_of`.
    """

    settings: DrillSettings
    history_path: Path
    verdicts: tuple[Verdict, ...]
    summary: Mapping[str, Any] = field(default_factory=dict)

    @property
    def validity(self) -> Validity:
        """One answer for all."""
        return overall(self.verdicts)


def run(
    settings: DrillSettings,
    progress: Callable[[Progress], object] | None = None,
    *,
    service: Service | None = None,
    recovery_s: float | None = None,
) -> DrillResult:
    """Run one drill, from setting up to cleaning up. Blocks until it is over. Ctrl-C, SIGTERM and SIGHUP end it in good order.

    Args:
        settings: what to do.
        progress: called about once a second, in a thread of the runner's; it should return fast.
        service: for the subject `http`: starts the service on the drilled database, where `settings.app` names none.
        recovery_s: how long after a heal the goodput may take to come back, seconds; None: as long as it comes.

    Raises:
        ConfigurationError: settings that contradict the place; the folder holds a history already.
        ServerMissing: the server is not installed; the text says how to get it.
        DrillFailed: a client process went down by itself, or sessions were left on the server, so that the final state cannot be
            read.
    """
    _check(settings, service)
    folder = settings.output
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ConfigurationError(
            f"the folder {folder} cannot be made ({error.strerror}); choose another one"
        ) from error
    if any(folder.glob("*.jsonl")):
        raise ConfigurationError(f"{folder} holds a history already; choose another folder, or remove it")
    with ExitStack() as stack:
        stack.enter_context(orderly_end())  # first, so that it lasts until everything else is undone
        runner, nemesis, wire = (
            stack.enter_context(HistoryWriter(folder / f"{name}.jsonl", name))
            for name in ("runner", "nemesis", "proxy")
        )
        place = stack.enter_context(open_place(settings, wire))
        _Drill(settings, place, runner, _Record(nemesis), progress, service).run(stack)
    return judged(settings, folder, recovery_s)


def judged(settings: DrillSettings, folder: Path, recovery_s: float | None = None) -> DrillResult:
    """What the checkers say of the history in `folder`, where goodput has to be back after `recovery_s`."""
    history = History.load(folder)
    aims_at_commits = bool({"commit", "blackhole"} & set(settings.faults)) and settings.workload != "echo"
    limits = Limits(
        retry_floor_per_second=float(settings.workers),
        recovery_s=recovery_s,
        # Every fault that began must have met somebody, and COMMITs in doubt are wanted where the faults aim at them.
        faults_min=max(1, len(history.faults)),
        ambiguous_min=None if aims_at_commits else 0,
    )
    verdicts = tuple(check(history, limits))
    return DrillResult(settings, folder, verdicts, summary_of(history))


def summary_of(history: History) -> dict[str, Any]:
    """The figures of one run, to be printed or added up: answers, faults, and ambiguous COMMITs with what became of them."""
    ambiguous = ambiguous_commits(history)
    answers = {answer: sum(op.answer is answer for op in history.operations) for answer in Answer}
    return {
        "operations": len(history.operations),
        "ok": answers[Answer.OK],
        "fail": answers[Answer.FAIL],
        "info": answers[Answer.INFO],
        "unsent": sum(not operation.was_sent for operation in history.operations),
        "attempts": sum(operation.attempts for operation in history.operations),
        "killed": sum(operation.killed for operation in history.operations),
        "faults": len(history.faults),
        "ambiguous": len(ambiguous),
        "ambiguous_applied": sum(commit.applied is True for commit in ambiguous),
        "seconds": (history.end - history.start) / 1e9,
        "seed": history.meta.get("seed"),
    }


def _check(settings: DrillSettings, service: Service | None) -> None:
    check_faults(settings)
    if settings.subject == "http":
        if settings.app is not None:
            check_target(read_service(settings.app).host, settings.may_break)
        if service is None:
            _check_foreign_service(settings)


def _check_foreign_service(settings: DrillSettings) -> None:
    """What a drill can do to a service that runs already: nothing between it and its database, which it has long connected to."""
    if settings.app is None:
        raise ConfigurationError("the subject 'http' needs an address, such as http://127.0.0.1:8000, as app")
    place = place_of(settings.app)
    cure = "have the drill start the service (--start COMMAND, with --server or a database URL)"
    if settings.database is not None or settings.server != "sqlite":
        raise ConfigurationError(f"the service at {place} would never see that database: {cure}, or name no database")
    if beyond := [name for name in settings.faults if name not in _AROUND_A_SERVICE]:
        raise ConfigurationError(
            f"the fault {beyond[0]!r} happens between the service at {place} and its database, where the drill is not: "
            f"{cure}, or choose --fault {', '.join(_AROUND_A_SERVICE)} or none"
        )


class _Record:
    """Writes faults into the history, and remembers which are there."""

    def __init__(self, writer: HistoryWriter) -> None:
        self._writer = writer
        self._present: dict[int, str] = {}
        self.begun = 0

    @property
    def present(self) -> tuple[str, ...]:
        """What is broken now."""
        return tuple(self._present.copy().values())

    def fault_start(self, name: str, value: Mapping[str, Any] | None = None) -> int:
        number = self._writer.fault_start(name, value)
        self._present[number] = name
        self.begun += 1
        return number

    def fault_end(self, name: str, fault_id: int, value: Mapping[str, Any] | None = None) -> None:
        self._writer.fault_end(name, fault_id, value)
        self._present.pop(fault_id, None)


@dataclass(slots=True)
class _Active:
    """A lasting fault that is not healed yet."""

    fault: Fault
    number: int
    told: dict[str, Any] = field(default_factory=dict)


class _Drill:
    """One run on a place that is open."""

    def __init__(
        self,
        settings: DrillSettings,
        place: Place,
        runner: HistoryWriter,
        record: _Record,
        progress: Callable[[Progress], object] | None,
        service: Service | None,
    ) -> None:
        self._settings = settings
        self._place = place
        self._runner = runner
        self._record = record
        self._nemesis: Nemesis | None = None
        self._progress = progress
        self._service = service
        self._tag = new_token()[:8]
        self._workload = workload_named(settings.workload)
        self._phase = "setup"
        self._start_s = SYSTEM_CLOCK.monotonic()
        self._active: list[_Active] = []

    def run(self, stack: ExitStack) -> None:
        """All phases; what has to be undone is left to `stack`."""
        place, settings = self._place, self._settings
        state = stack.enter_context(DatabaseState(place.direct_url, place.admin_url))
        app = settings.app
        if self._service is not None:
            app = stack.enter_context(self._service(place.url))
        known = self._set_up(stack, state, app)
        self._runner.meta(self._meta(state))  # after the set-up, which may change a setting: SQLite's journal
        state.remember_foreign()
        crew = stack.enter_context(Crew(self._assignment(app, known, state.flavour), settings.workers))
        stack.callback(self._heal)
        monitor = stack.enter_context(_Monitor(self, state, crew))
        self._go(crew)
        monitor.stop()
        with self._phased("final"):
            self._runner.final(self._workload.final_name, self._final(state, app, known))

    # -- before and after --------------------------------------------------------------------------------------------

    def _meta(self, state: DatabaseState) -> dict[str, Any]:
        settings, about = self._settings, state.about()
        return {
            "seed": settings.seed,
            "workload": settings.workload,
            "subject": settings.subject,
            "rate": settings.rate,
            "deadline_s": settings.deadline,
            "limit": settings.limit if SUBJECTS[settings.subject].has_limit else None,
            "pool_max": None if issubclass(SUBJECTS[settings.subject], Remote) else settings.connections,
            "side_max": SUBJECTS[settings.subject].side_connections * settings.workers,
            "partition": self._place.cluster.isolates_by if self._place.cluster is not None else None,
            "started": datetime.fromtimestamp(self._runner.path.stat().st_mtime, UTC).strftime("%Y-%m-%dT%H:%M:%SZ"),
            **about,
            "versions": {**about["versions"], **versions(driver_of(settings.subject, self._place.url))},
            "settings": settings.told(),
        }

    def _set_up(self, stack: ExitStack, state: DatabaseState, app: str | None) -> dict[str, Any]:
        if isinstance(self._workload, TableWorkload):
            stack.callback(state.clean_up, self._tag)
            state.set_up(self._workload)
            return {}
        return asyncio.run(self._ask_remote(app, lambda subject: subject.set_up()))

    def _final(self, state: DatabaseState, app: str | None, known: Mapping[str, Any]) -> dict[str, Any]:
        if isinstance(self._workload, TableWorkload):
            state.wait_until_quiet()
            return state.final(self._workload)

        async def final(subject: Remote) -> dict[str, Any]:
            subject.begin(known)
            return await subject.final()

        return asyncio.run(self._ask_remote(app, final))

    async def _ask_remote(self, app: str | None, question: Callable[[Remote], Any]) -> dict[str, Any]:
        terms = Terms(self._settings.deadline, 2)
        subject = open_subject(self._settings.subject, self._place.direct_url, self._workload, terms, app=app)
        assert isinstance(subject, Remote)
        try:
            answer: dict[str, Any] = await question(subject)
            return answer
        finally:
            await subject.close()

    def _assignment(self, app: str | None, known: dict[str, Any], flavour: str) -> Assignment:
        settings = self._settings
        return Assignment(
            process=0,
            folder=str(settings.output),
            url=self._place.url,
            workload=settings.workload,
            subject=settings.subject,
            app=app,
            known=known,
            seed=settings.seed,
            rate=settings.rate,
            callers=settings.callers,
            deadline_s=settings.deadline,
            connections=settings.connections,
            limit=settings.limit,
            flavour=flavour,
            drill=self._tag,
        )

    # -- phases ------------------------------------------------------------------------------------------------------

    def _go(self, crew: Crew) -> None:
        settings = self._settings
        lasting = [lasting_fault(name, self._place, crew, settings) for name in settings.faults if name in LASTING]
        nemesis = self._nemesis = self._schedule(crew)
        self._start_s = SYSTEM_CLOCK.monotonic() + _LEAD_S
        crew.start(self._start_s)
        with self._phased("baseline"):
            self._wait(crew, self._start_s + settings.baseline_s)
        with self._phased("faults"):
            try:
                self._disturb(crew, nemesis, lasting)
            finally:
                self._heal()
        with self._phased("healed"):
            self._wait(crew, SYSTEM_CLOCK.monotonic() + settings.healed_s)
            crew.stop()
            crew.check()

    def _schedule(self, crew: Crew) -> Nemesis:
        settings, place = self._settings, self._place
        schedule = plan(
            settings.seed,
            [name for name in settings.faults if name in PASSING],
            settings.seconds,
            spacing_s=settings.every,
            nodes=len(place.cluster.nodes) if place.cluster is not None else 1,
            scopes=tuple(Scope) if settings.scope == "any" else (Scope(settings.scope),),
            baseline_s=0.0,
            healed_s=0.0,
        )
        return Nemesis(schedule, lambda planned: passing_fault(planned, place, crew, settings), self._record)

    def _disturb(self, crew: Crew, nemesis: Nemesis, lasting: list[Fault]) -> None:
        end_s = SYSTEM_CLOCK.monotonic() + self._settings.seconds
        for fault in lasting:
            active = _Active(fault, self._record.fault_start(fault.name, {"lasting": True}))
            self._active.append(active)
            active.told = fault.start()
        nemesis.run()
        self._wait(crew, end_s)

    def _heal(self) -> None:
        while self._active:
            active = self._active[-1]
            active.fault.heal()
            self._active.pop()
            # A fault is told of before it acts; what it did is known only now.
            self._record.fault_end(active.fault.name, active.number, active.told)
        for proxy in self._place.proxies.values():
            proxy.heal()

    @contextmanager
    def _phased(self, name: str) -> Iterator[None]:
        self._phase = name
        with self._runner.phase(name):
            yield

    @staticmethod
    def _wait(crew: Crew, until_s: float) -> None:
        while (left_s := until_s - SYSTEM_CLOCK.monotonic()) > 0:
            crew.check()
            SYSTEM_CLOCK.sleep(min(_STEP_S, left_s))

    # -- telling -----------------------------------------------------------------------------------------------------

    def tell(self, state: DatabaseState, crew: Crew, before: Mapping[str, int]) -> Mapping[str, int]:
        """Take a sample and report; the counts of now."""
        sample = state.sample()
        if sample:
            self._runner.sample(sample)
        try:
            crew.check()
        except DrillFailed:
            if self._nemesis is not None:
                self._nemesis.stop()  # whoever waits for it raises the error
        counts = crew.counts
        if self._progress is not None:
            settings = self._settings
            planned_s = settings.baseline_s + settings.seconds + settings.healed_s
            elapsed_s = max(0.0, SYSTEM_CLOCK.monotonic() - self._start_s)
            self._progress(
                Progress(
                    phase=self._phase,
                    elapsed_s=elapsed_s,
                    left_s=max(0.0, planned_s - elapsed_s),
                    goodput_per_s=counts["ok"] - before.get("ok", 0),
                    attempts_per_s=counts["attempts"] - before.get("attempts", 0),
                    ok=counts["ok"],
                    failed=counts["fail"],
                    unknown=counts["info"],
                    unsent=counts["unsent"],
                    attempts=counts["attempts"],
                    under_way=crew.under_way,
                    faults=self._record.present,
                    faults_begun=self._record.begun,
                )
            )
        return counts


class _Monitor:
    """Samples and reports once a second, in a thread of its own: the server may take its time to answer."""

    def __init__(self, drill: _Drill, state: DatabaseState, crew: Crew) -> None:
        self._drill = drill
        self._state = state
        self._crew = crew
        self._stopped = threading.Event()
        self._thread = threading.Thread(target=self._watch, name="drill-monitor", daemon=True)

    def _watch(self) -> None:
        counts: Mapping[str, int] = {}
        while not self._stopped.wait(1.0):
            counts = self._drill.tell(self._state, self._crew, counts)

    def stop(self) -> None:
        """No more samples."""
        self._stopped.set()
        self._thread.join()

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()
