"""The long drills: what has to be shown, how much of it, and how far it is. Run in pieces, added up.

    campaign = Campaign(Path("build/drills"))
    while (piece := campaign.next_piece()) is not None:
        campaign.run(piece)

A long drill is the same short one again and again, each time with another seed, until the pieces together hold enough. Each piece
leaves a folder with its history and a `summary.json`; what stands in the summaries is the only memory, so a campaign can be
stopped at any moment and taken up again. `keep` writes the summaries into one file beside the results, so that it can be taken up
on another machine as well, without the histories. A line of that file with a `source` was not measured by a piece: it repeats
what an earlier page said. It is shown as that until the drill has a piece, does not count as done, and goes with the first piece.
"""

from __future__ import annotations

import json
import shutil
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from .run import DrillResult, Progress, Service, judged, run
from .settings import DrillSettings
from .verdict import Validity

__all__ = ["LONG_DRILLS", "Campaign", "LongDrill", "Piece", "Totals"]

_SUMMARY = "summary.json"


@dataclass(frozen=True, slots=True)
class LongDrill:
    """One thing that has to be shown.

    Attributes:
        name: of its folder and of its row in the results; lower-case words with hyphens.
        shows: what it shows, in one sentence.
        settings: of each piece; seed and output are filled in.
        enough: how much is enough, all pieces together: a figure of `summary_of` and its least value.
        expected: whether it should hold (`valid`), or is there to show what happens otherwise (`invalid`).
        serves: the pieces drill a service, which whoever runs the campaign starts.
        recovery_s: how long after a heal the goodput may take to come back; None: as long as it comes.
    """

    name: str
    shows: str
    settings: DrillSettings
    enough: Mapping[str, float]
    expected: Validity = Validity.VALID
    serves: bool = False
    recovery_s: float | None = None


@dataclass(frozen=True, slots=True)
class Piece:
    """One run of a long drill: the `number`-th, from 1, which is its seed as well."""

    drill: LongDrill
    number: int

    @property
    def folder(self) -> str:
        """Where it goes, below the campaign's folder."""
        return f"{self.drill.name}/{self.number:03d}"


@dataclass(frozen=True, slots=True)
class Totals:
    """All pieces of one long drill, added up.

    Attributes:
        pieces: how many there are.
        figures: the sums of what `summary_of` tells.
        verdicts: for each checker how often it gave each answer.
        told: the sum of each figure that a checker told, as `checker.figure`; `wrong` is one of every checker.
        worst: the greatest of each.
        wrong: what was found wrong, the first of each piece, with the piece's folder.
        untold: what could not be told: every unknown answer, likewise, and which deadlines the machine was too busy to judge.
        source: where the figures come from, if not from pieces that were run.
    """

    pieces: int = 0
    figures: Mapping[str, float] = field(default_factory=dict)
    verdicts: Mapping[str, Mapping[str, int]] = field(default_factory=dict)
    told: Mapping[str, float] = field(default_factory=dict)
    worst: Mapping[str, float] = field(default_factory=dict)
    wrong: tuple[str, ...] = ()
    untold: tuple[str, ...] = ()
    source: str | None = None

    @property
    def validity(self) -> Validity:
        """One answer for all pieces: invalid if anything was found wrong, unknown if nothing was found in order."""
        if self.wrong:
            return Validity.INVALID
        held = any(answers.get(Validity.VALID) for answers in self.verdicts.values())
        return Validity.VALID if held else Validity.UNKNOWN

    def are_enough(self, drill: LongDrill) -> bool:
        """Whether the drill has what it needs, from pieces that were run."""
        return self.pieces > 0 and not self.short(drill)

    def short(self, drill: LongDrill) -> dict[str, tuple[float, float]]:
        """Of what there is too little, by the figure's name: how much there is, and how much is enough."""
        have = {name: 0.0 if self.source else float(self.figures.get(name, 0)) for name in drill.enough}
        return {name: (have[name], least) for name, least in drill.enough.items() if have[name] < least}


class Campaign:
    """Some long drills, and a folder with what was done of them.

    Args:
        folder: where the pieces are.
        drills: which; default `LONG_DRILLS`.
        service: starts the service for the drills that need one; without it they are left out.
        kept: the file that `keep` writes, which counts as well; None: there is none.
    """

    def __init__(
        self,
        folder: Path,
        drills: Iterable[LongDrill] | None = None,
        *,
        service: Service | None = None,
        kept: Path | None = None,
    ) -> None:
        chosen = LONG_DRILLS if drills is None else tuple(drills)
        self.folder = folder
        self.drills = tuple(drill for drill in chosen if service is not None or not drill.serves)
        self._service = service
        self._kept = kept

    def next_piece(self) -> Piece | None:
        """What is to be run next: of the drill that has come least far; None when there is enough of all."""
        short = [(self._progress(drill), drill) for drill in self.drills if not self.totals(drill).are_enough(drill)]
        if not short:
            return None
        _, drill = min(short, key=lambda entry: entry[0])
        run = (int(told["piece"]) for told in self._told_of(drill) if "source" not in told)
        return Piece(drill, 1 + max(run, default=0))

    def run(self, piece: Piece, progress: Callable[[Progress], object] | None = None) -> DrillResult:
        """Run one piece; what an interrupted one left is removed first.

        Raises:
            HoldfastError: as `run.run`.
        """
        folder = self.folder / piece.folder
        shutil.rmtree(folder, ignore_errors=True)
        settings = replace(piece.drill.settings, seed=piece.number, output=folder)
        service = self._service if piece.drill.serves else None
        result = run(settings, progress, service=service, recovery_s=piece.drill.recovery_s)
        (folder / _SUMMARY).write_text(json.dumps(_told(result), indent=1))
        return result

    def judge_again(self) -> None:
        """Have the checkers of today judge the histories that are here: what they say of one needs nothing else."""
        for drill in self.drills:
            for path in (self.folder / drill.name).glob(f"*/{_SUMMARY}"):
                if any(path.parent.glob("*.jsonl")):
                    settings = replace(drill.settings, seed=int(path.parent.name), output=path.parent)
                    path.write_text(json.dumps(_told(judged(settings, path.parent, drill.recovery_s)), indent=1))

    def totals(self, drill: LongDrill) -> Totals:
        """What the pieces of `drill` hold together."""
        figures: Counter[str] = Counter()
        verdicts: dict[str, Counter[str]] = {}
        counts: Counter[str] = Counter()
        worst: dict[str, float] = {}
        wrong: list[str] = []
        untold: list[str] = []
        pieces = 0
        for told in self._told_of(drill):
            pieces += told.get("pieces", 1)
            figures.update({name: value for name, value in told["summary"].items() if name != "seed"})
            for verdict in told["verdicts"]:
                checker = verdict["checker"]
                verdicts.setdefault(checker, Counter())[verdict["valid"]] += 1
                for name, value in verdict["counts"].items():
                    counts[f"{checker}.{name}"] += value
                    worst[f"{checker}.{name}"] = max(value, worst.get(f"{checker}.{name}", value))
                said = f"{drill.name}/{told['piece']}: {checker}: {verdict['reason']}"
                if verdict["valid"] == Validity.INVALID:
                    wrong.append(said)
                elif verdict["valid"] == Validity.UNKNOWN or verdict["counts"].get("late_starved"):
                    untold.append(said)
        source = next((told["source"] for told in self._told_of(drill) if "source" in told), None)
        return Totals(pieces, figures, verdicts, counts, worst, tuple(wrong), tuple(untold), source)

    def _progress(self, drill: LongDrill) -> float:
        return min((have / least for have, least in self.totals(drill).short(drill).values()), default=1.0)

    def keep(self) -> None:
        """Write what is told of every piece into the file that is kept, a line each, without examples and settings."""
        assert self._kept is not None
        lines = []
        for drill in self.drills:
            for told in self._told_of(drill):
                verdicts = [
                    {name: verdict[name] for name in ("checker", "valid", "reason", "counts")}
                    for verdict in told["verdicts"]
                ]
                lines.append({**told, "drill": drill.name, "verdicts": verdicts})
                lines[-1].pop("settings", None)
        self._kept.write_text("".join(json.dumps(line, sort_keys=True) + "\n" for line in lines))

    def _told_of(self, drill: LongDrill) -> list[dict[str, Any]]:
        """What is told of each piece that was finished, here or where the kept file comes from; without one, what was copied."""
        kept: list[dict[str, Any]] = []
        if self._kept is not None and self._kept.exists():
            lines = map(json.loads, self._kept.read_text().splitlines())
            kept = [told for told in lines if told["drill"] == drill.name]
        found = {told["piece"]: told for told in kept if "source" not in told}
        for path in (self.folder / drill.name).glob(f"*/{_SUMMARY}"):
            found[path.parent.name] = {**json.loads(path.read_text()), "piece": path.parent.name}
        return [found[piece] for piece in sorted(found)] if found else kept


def _told(result: DrillResult) -> dict[str, Any]:
    return {
        "settings": result.settings.told(),
        "summary": dict(result.summary),
        "verdicts": [
            {
                "checker": verdict.checker,
                "valid": verdict.valid.value,
                "reason": verdict.reason,
                "counts": dict(verdict.counts),
                "examples": list(verdict.examples),
            }
            for verdict in result.verdicts
        ],
    }


# -- what has to be shown ------------------------------------------------------------------------------------------------

_SERVED = ("mariadb", "mysql", "postgresql")
_FLAVOURS = ("sqlite", *_SERVED)
_WORKLOADS = ("bank", "set", "unique", "counter", "rmw", "replay")
_RATES = {"sqlite": 60.0, "mariadb": 100.0, "mysql": 100.0, "postgresql": 60.0}
"""Operations a second that are due: what two cores carry beside the server, the proxy and the judges, each connection anew after
every fifth COMMIT. What is more than they can carry shows how late answers are on a busy machine (`overload` is for that)."""
_RATES_OF_HOT_ROWS = {**_RATES, "postgresql": 40.0}
"""The same where all write the same eight rows: beside drill and clients PostgreSQL carries fifty transfers a second."""
_RATES_BETWEEN_OUTAGES = {"mariadb": 60.0, "mysql": 60.0, "postgresql": 20.0}
"""The same where a server is away half of the time: less than half of what it carries, so that what was due meanwhile can be done
before the next outage."""


def _commits() -> Iterable[LongDrill]:
    """At least 10,000 ambiguous COMMITs in all."""
    for flavour in _FLAVOURS:
        for workload in _WORKLOADS:
            rates = _RATES_OF_HOT_ROWS if workload == "bank" else _RATES
            yield LongDrill(
                f"commits-{flavour}-{workload}",
                "Every ambiguous COMMIT is settled: nothing lost, nothing doubled, nothing denied.",
                DrillSettings(server=flavour, workload=workload, seconds=60, rate=rates[flavour]),
                {"ambiguous": 450},
            )
        for subject in ("holdfast-unkeyed", "holdfast-threads"):
            yield LongDrill(
                f"commits-{flavour}-{subject}",
                "The same without a key of the caller's, and in threads.",
                DrillSettings(server=flavour, workload="set", subject=subject, seconds=60, rate=_RATES[flavour]),
                {"ambiguous": 450},
            )


def _others() -> Iterable[LongDrill]:
    """The same faults for those who do without Holdfast."""
    for flavour in _FLAVOURS:
        for subject in ("plain", "tenacity"):
            for workload in ("set", "rmw"):
                yield LongDrill(
                    f"others-{flavour}-{subject}-{workload}",
                    "What becomes of the same saves without Holdfast.",
                    DrillSettings(server=flavour, workload=workload, subject=subject, seconds=30, rate=_RATES[flavour]),
                    {"ambiguous": 100},
                    Validity.INVALID,
                )


def _deadlines() -> Iterable[LongDrill]:
    """Answers come in time although the network says nothing at all."""
    for flavour in _SERVED:
        yield LongDrill(
            f"deadlines-{flavour}",
            "Black holes and waits for locks: every answer comes by its deadline and 0.25 s.",
            DrillSettings(
                server=flavour,
                workload="bank",
                faults=("blackhole", "lock-storm"),
                seconds=60,
                rate=20,  # what is asked is how late an answer is, not how many there are
                deadline=2.0,
                callers=128,
            ),
            {"operations": 4_500},
        )


def _outages() -> Iterable[LongDrill]:
    """Nobody answers for 30 s. As many are due within a deadline as there are callers, so that all who wait do so in Holdfast."""
    for flavour in _SERVED:
        yield LongDrill(
            f"outage-{flavour}",
            "An outage of 30 s with 200 callers: at most 1.1 times the load at the wire, and back within a second.",
            DrillSettings(
                server=flavour,
                workload="set",
                faults=("outage",),
                seconds=60,
                every=60,
                rate=60,
                callers=200,
                deadline=3.3,
            ),
            {"faults": 5},
            recovery_s=1.0,
        )


_OVERLOADED = DrillSettings(workload="set", faults=("overload",), seconds=30, rate=60, deadline=2.0, callers=200)
"""More callers than are due within a deadline, so that everything is sent; all connections have room in the server's queue."""
_CROWDED = 64
"""Connections of which a third has no room there: those are reset, and whoever had them has the time to try again."""


def _overloads() -> Iterable[LongDrill]:
    """Twice as much is due as can be served, and more, for 30 s."""
    for flavour in _SERVED:
        for limit in ("off", "on"):
            yield LongDrill(
                f"overload-{flavour}-limit-{limit}",
                "An overload of 30 s: at most 1.1 times the load at the wire, every answer by its deadline, back within 2 s; and "
                "what the adaptive limit is good for.",
                replace(_OVERLOADED, server=flavour, limit=limit),
                {"faults": 1},
                recovery_s=2.0,
            )
        yield LongDrill(
            f"overload-{flavour}-crowded",
            "The same where the server resets connections besides: a retry is possible, and at most 1.1 times the load arrives.",
            replace(_OVERLOADED, server=flavour, connections=_CROWDED),
            {"faults": 1},
        )


def _other_overloads() -> Iterable[LongDrill]:
    """The same for those who do without Holdfast."""
    for flavour in _SERVED:
        for subject in ("plain", "tenacity"):
            for name, connections in (("", _OVERLOADED.connections), ("-crowded", _CROWDED)):
                yield LongDrill(
                    f"others-overload-{flavour}-{subject}{name}",
                    "What becomes of the same overload without Holdfast.",
                    replace(_OVERLOADED, server=flavour, subject=subject, connections=connections),
                    {"faults": 1},
                    Validity.INVALID,
                )


def _killed_clients() -> Iterable[LongDrill]:
    """Clients die in the middle of an operation, and their successors ask again."""
    for flavour in _FLAVOURS:
        yield LongDrill(
            f"clients-{flavour}",
            "A client is killed in the middle of an operation; the next process settles it by its key.",
            DrillSettings(
                server=flavour,
                workload="bank",
                faults=("commit", "kill-client"),
                seconds=60,
                every=6,
                rate=_RATES_OF_HOT_ROWS[flavour],
            ),
            {"killed": 60},
        )


def _servers() -> Iterable[LongDrill]:
    """Everything that a server can do to its clients."""
    faults = ("kill-server", "restart-server", "freeze-server", "slow-server", "kill-sessions", "read-only")
    for flavour in _SERVED:
        more = ("no-connections", "lock-storm") if flavour == "mysql" else ("no-connections", "lock-storm", "disk-full")
        yield LongDrill(
            f"servers-{flavour}",
            "The server is killed, restarted, frozen, slowed down, turned read-only, filled up; nothing is lost or doubled.",
            DrillSettings(
                server=flavour,
                workload="bank",
                faults=("commit", *faults, *more),
                seconds=200,
                every=20,
                rate=_RATES_BETWEEN_OUTAGES[flavour],
            ),
            {"faults": 60},
        )


def _cluster() -> Iterable[LongDrill]:
    """Three nodes, of which one after the other goes."""
    yield LongDrill(
        "galera-nodes",
        "Nodes of a Galera cluster are killed, stopped and cut off; no operation with a deadline of 15 s fails, and within 10 s "
        "of a heal the goodput is back.",
        DrillSettings(
            server="galera",
            workload="set",
            faults=("kill-node", "stop-node", "partition"),
            scope="one",
            seconds=300,
            every=20,
            rate=25,
            deadline=15.0,
        ),
        {"faults": 300},
        recovery_s=10.0,
    )
    yield LongDrill(
        "galera-outages",
        "Two of three nodes go at once, so nobody can be served until they are back: nothing is lost or doubled, and within "
        "10 s of a heal the goodput is back.",
        DrillSettings(
            server="galera",
            workload="set",
            faults=("kill-node", "stop-node", "freeze-node", "partition"),
            scope="majority",
            seconds=600,
            every=60,
            rate=25,
            deadline=15.0,
        ),
        {"faults": 20},
        recovery_s=10.0,
    )


def _pair() -> Iterable[LongDrill]:
    """A primary and its standby."""
    yield LongDrill(
        "pair-roles",
        "A PostgreSQL primary is killed and its standby promoted, or the two change places: no operation with a deadline of "
        "15 s fails, and within 5 s of the change the goodput is back.",
        DrillSettings(
            server="postgresql-pair",
            workload="set",
            faults=("promote-standby", "switch-roles"),
            seconds=300,
            every=15,
            rate=40,
            deadline=15.0,
        ),
        {"faults": 40},
        recovery_s=5.0,
    )


def _http() -> Iterable[LongDrill]:
    """End to end: a client, HTTP, the service, the database."""
    for flavour in ("mariadb", "postgresql"):
        yield LongDrill(
            f"http-{flavour}",
            "Posts with an Idempotency-Key, while the service's connections to its database are cut around COMMIT.",
            DrillSettings(server=flavour, workload="http", subject="http", seconds=60, rate=30),
            {"ambiguous": 200},
            serves=True,
        )


LONG_DRILLS: tuple[LongDrill, ...] = (
    *_commits(),
    *_killed_clients(),
    *_deadlines(),
    *_outages(),
    *_overloads(),
    *_servers(),
    *_cluster(),
    *_pair(),
    *_http(),
    *_others(),
    *_other_overloads(),
)
"""What `make drill` runs."""
