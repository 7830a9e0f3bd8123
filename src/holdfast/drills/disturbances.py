"""Every fault of a drill by its name, made for the place that is drilled.

Some last as long as the phase of faults (`LASTING`): each connection or COMMIT draws its own fate. The others (`PASSING`)
come and go one after the other, as the schedule says.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, cast

from ..errors import ConfigurationError
from ..faultproxy import FaultProxy, Handle, Kind, Latency, Phase, Queue, ResetPeer, Timeout, Toxic
from .faults import (
    CLUSTER_FAULTS,
    SERVER_PROCESS_FAULTS,
    DiskFull,
    Fault,
    KillSessions,
    LockStorm,
    PromoteStandby,
    ReadOnly,
    SwitchRoles,
    UseUpConnections,
    is_asked_in_python,
    lockable_rows,
)
from .guard import check_started
from .place import NAMED
from .subjects import SUBJECTS, Remote, with_driver
from .workloads import PREFIX

if TYPE_CHECKING:
    from .crew import Crew
    from .place import Place
    from .schedule import Planned
    from .settings import DrillSettings

__all__ = ["LASTING", "PASSING", "check_faults", "lasting_fault", "passing_fault"]

_VANISHING = 0.01
_LATE_S = 0.02
_LOSING_TOUCH = 0.05
_PATIENT = 1 / 3  # of a deadline


_Toxics = Sequence[tuple[Toxic, Phase, Kind | None, float]]
"""What, when, on which statements, and how probably."""


class _OnTheWire:
    """Toxics in every proxy."""

    def __init__(
        self,
        name: str,
        proxies: Mapping[str, FaultProxy],
        toxics: _Toxics,
        told: dict[str, Any],
    ) -> None:
        self.name = name
        self._proxies = proxies
        self._toxics = toxics
        self._told = told
        self._handles: list[Handle] = []

    def start(self) -> dict[str, Any]:
        for proxy in self._proxies.values():
            for toxic, at, on, toxicity in self._toxics:
                self._handles.append(proxy.add(toxic, at, on=on, toxicity=toxicity))
        return self._told

    def heal(self) -> None:
        handles, self._handles = self._handles, []
        for handle in handles:
            handle.remove()


class _InTheClients:
    """Done by each client process to itself, where no proxy reaches."""

    def __init__(self, name: str, crew: Crew, told: dict[str, Any], argument: str = "") -> None:
        self.name = name
        self._crew = crew
        self._told = told
        self._argument = argument

    def start(self) -> dict[str, Any]:
        self._crew.disturb(self.name, self._argument)
        return self._told

    def heal(self) -> None:
        self._crew.heal(self.name)


class _NamesLost:
    """No client finds its server by name any more, and one statement in twenty loses its connection.

    A name is looked up for a new connection alone: without resets nobody would ask.
    """

    name = "dns-failure"

    def __init__(self, place: Place, crew: Crew) -> None:
        self._names = _InTheClients(self.name, crew, {"host": NAMED}, NAMED)
        resets: _Toxics = [(ResetPeer(), Phase.BEFORE, None, _LOSING_TOUCH)]
        self._wire = _OnTheWire(self.name, place.proxies, resets, {"share": _LOSING_TOUCH})

    def start(self) -> dict[str, Any]:
        return self._names.start() | self._wire.start()

    def heal(self) -> None:
        self._wire.heal()
        self._names.heal()


class _EndClients:
    """SIGKILL or SIGTERM for one client after the other; healing starts its successor."""

    def __init__(self, name: str, end_one: Callable[[], int], crew: Crew) -> None:
        self.name = name
        self._end_one = end_one
        self._crew = crew
        self._ended: list[int] = []

    def start(self) -> dict[str, Any]:
        place = self._end_one()
        self._ended.append(place)
        return {"client": place}

    def heal(self) -> None:
        while self._ended:
            self._crew.bring_back(self._ended.pop())


def _commit(place: Place, crew: Crew, settings: DrillSettings) -> Fault:
    if not place.proxies:
        if issubclass(SUBJECTS[settings.subject], Remote):
            raise ConfigurationError(
                f"the subject {settings.subject!r} opens connections that the drill cannot disturb here: drill it on a server "
                "(--server, or a database URL), or choose the fault kill-client"
            )
        return _InTheClients("commit", crew, {"share": settings.share, "injected": True}, str(settings.share))
    # Half of them never reach the server, half are carried out: to the client both look the same.
    half = settings.share / 2
    toxics: _Toxics = [
        (ResetPeer(), Phase.BEFORE, Kind.COMMIT, half),
        (ResetPeer(), Phase.ANSWERED, Kind.COMMIT, half),
    ]
    return _OnTheWire("commit", place.proxies, toxics, {"share": settings.share})


def _blackhole(place: Place, _crew: Crew, _settings: DrillSettings) -> Fault:
    half = _VANISHING / 2
    toxics: _Toxics = [(Timeout(), Phase.BEFORE, Kind.COMMIT, half), (Timeout(), Phase.ANSWERED, Kind.COMMIT, half)]
    return _OnTheWire("blackhole", place.proxies, toxics, {"share": _VANISHING})


def _latency(place: Place, _crew: Crew, _settings: DrillSettings) -> Fault:
    toxics: _Toxics = [(Latency(_LATE_S, jitter=_LATE_S), Phase.ALWAYS, None, 1.0)]
    return _OnTheWire("latency", place.proxies, toxics, {"latency_s": _LATE_S, "jitter_s": _LATE_S})


def _overload(place: Place, _crew: Crew, settings: DrillSettings) -> Fault:
    # One statement for each operation that is due, and each needs two at least: so half of what is due can be served, or less.
    queue = Queue(settings.rate, settings.deadline * _PATIENT)
    told = {"overload": True, "statements_per_s": queue.rate, "patience_s": round(queue.patience, 3)}
    return _OnTheWire("overload", place.proxies, [(queue, Phase.BEFORE, None, 1.0)], told)


LASTING: dict[str, Callable[[Place, Crew, DrillSettings], Fault]] = {
    "commit": _commit,
    "blackhole": _blackhole,
    "latency": _latency,
    "overload": _overload,
}
"""`commit` resets connections around a share of all COMMITs, half of them carried out; `blackhole` lets one COMMIT in a hundred
vanish without a word; `latency` delays every answer by up to 40 ms; `overload` has all statements wait in one queue, of which
as many a second are served as operations are due, and resets the connection of one that would wait there for a third of its
deadline."""

_PROCESSES = tuple(SERVER_PROCESS_FAULTS)
_NODES = tuple(CLUSTER_FAULTS)
_ROLES = {kind.name: kind for kind in (PromoteStandby, SwitchRoles)}
_SERVER = (*_PROCESSES, "kill-sessions", "read-only", "no-connections", "lock-storm")

PASSING = (
    *("outage", "kill-client", "stop-client", "pool-starvation", "dns-failure"),
    *(*_SERVER, "disk-full", *_NODES, *_ROLES),
)
"""`outage` resets every connection at once, the clients' ones end a client, starve its pool or take the server's name from it;
the others are those of `holdfast.drills.faults`."""

_NEEDS_A_WIRE = frozenset({"blackhole", "latency", "overload", "outage", "dns-failure"})
_IN_THE_CLIENTS = frozenset({"pool-starvation", "dns-failure"})


def check_faults(settings: DrillSettings) -> None:
    """Whether there are such faults, and whether they can happen where the drill takes place.

    Raises:
        ConfigurationError: no; the text says what can.
    """
    served = settings.database is not None or settings.server != "sqlite"
    own = settings.database is None and settings.server in ("mariadb", "mysql", "postgresql")
    for name in settings.faults:
        if name not in LASTING and name not in PASSING:
            raise ConfigurationError(f"unknown fault {name!r}; choose {', '.join((*LASTING, *PASSING))}")
        if name in _NEEDS_A_WIRE and (not served or settings.backend == "sqlite"):
            raise ConfigurationError(f"the fault {name!r} is done to a network connection, and SQLite has none")
        if name in _IN_THE_CLIENTS:
            _check_clients(name, settings)
        if name in _SERVER and not own:
            raise ConfigurationError(
                f"the fault {name!r} stops the server, or changes its settings for everybody, so it needs one of the drill's "
                "own: --server mariadb, mysql or postgresql, and no database URL"
            )
        if name in _NODES and (settings.database is not None or settings.server != "galera"):
            raise ConfigurationError(f"the fault {name!r} is for a cluster of the drill's own: --server galera")
        if name in _ROLES and (settings.database is not None or settings.server != "postgresql-pair"):
            raise ConfigurationError(
                f"the fault {name!r} is for a primary and a standby of the drill's own: --server postgresql-pair"
            )
        if name == "disk-full" and (
            settings.database is not None or settings.server not in ("sqlite", "mariadb", "postgresql")
        ):
            raise ConfigurationError(
                "the fault 'disk-full' needs SQLite, or a MariaDB or PostgreSQL server of the drill's own"
            )


def _check_clients(name: str, settings: DrillSettings) -> None:
    """Whether a fault that a client does to itself meets the subject's connections."""
    if issubclass(SUBJECTS[settings.subject], Remote):
        raise ConfigurationError(
            f"the fault {name!r} is done inside the client processes, to connections that the drill opens there itself, and the "
            f"subject {settings.subject!r} opens its own"
        )
    asynchronous = settings.subject != "holdfast-threads"
    url = with_driver(settings.database or f"{settings.backend}://", asynchronous=asynchronous)
    driver = url.partition("://")[0].partition("+")[2]
    if name == "dns-failure" and not is_asked_in_python(driver, asynchronous=asynchronous):
        raise ConfigurationError(
            f"the fault 'dns-failure' is done to Python's own look-ups, and {driver} has the operating system look names up: "
            "take another subject, or a driver written in Python"
        )


def lasting_fault(name: str, place: Place, crew: Crew, settings: DrillSettings) -> Fault:
    """One of `LASTING`.

    Raises:
        ConfigurationError: the subject's connections cannot be disturbed here.
    """
    return LASTING[name](place, crew, settings)


def passing_fault(planned: Planned, place: Place, crew: Crew, settings: DrillSettings) -> Fault:
    """One of `PASSING`, as the schedule has it."""
    name = planned.fault
    if name == "outage":
        # Nobody is served, but every try is seen and counted, which a closed port would not.
        toxics: _Toxics = [(ResetPeer(), Phase.CONNECT, None, 1.0), (ResetPeer(), Phase.BEFORE, None, 1.0)]
        return _OnTheWire(name, place.proxies, toxics, {"outage": True})
    if name in ("kill-client", "stop-client"):
        return _EndClients(name, crew.kill_one if name == "kill-client" else crew.stop_one, crew)
    if name == "pool-starvation":
        return _InTheClients(name, crew, {})
    if name == "dns-failure":
        return _NamesLost(place, crew)
    if name in CLUSTER_FAULTS:
        fault = CLUSTER_FAULTS[name](check_started(place.cluster, name), planned.harm, planned.heal)
        return cast("Fault", fault)  # whose name belongs to its class
    if name in _ROLES:
        return _ROLES[name](check_started(place.pair, name))
    if name == "disk-full":
        assert place.disk is not None
        return DiskFull(place.disk, place.server)
    server = check_started(place.server, name)
    if name in SERVER_PROCESS_FAULTS:
        return SERVER_PROCESS_FAULTS[name](server)
    if name == "kill-sessions":
        return KillSessions(server)
    if name == "read-only":
        return ReadOnly(server)
    if name == "no-connections":
        return UseUpConnections(server)
    return LockStorm(server, lockable_rows(server, PREFIX), seed=settings.seed)
