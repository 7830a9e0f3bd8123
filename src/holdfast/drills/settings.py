"""The settings of a drill: names, units, defaults and bounds, checked once, before anything runs."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from ..adaptive import Mode
from ..errors import ConfigurationError
from .given import place_of, read_database, read_service
from .schedule import SPACING_S, Scope
from .subjects import SUBJECTS, check_subject
from .workloads import WORKLOADS

__all__ = ["LIMITS", "SCOPES", "SERVERS", "DrillSettings"]

SERVERS = ("sqlite", "mariadb", "mysql", "postgresql", "galera", "postgresql-pair")
"""What a drill can start by itself."""
_BACKENDS = {"galera": "mariadb", "postgresql-pair": "postgresql"}

SCOPES = ("any", *(scope.value for scope in Scope))
"""How many nodes of a cluster a fault may meet."""

LIMITS: tuple[Mode, ...] = ("off", "dark", "on")
"""What an adaptive limit may do."""

_BASELINE_MAX_S = 6.0
_HEALED_MIN_S, _HEALED_MAX_S = 3.0, 15.0


@dataclass(frozen=True, slots=True, kw_only=True)
class DrillSettings:
    """What a drill does, to what, and for how long.

    Attributes:
        server: the kind of server to start (and to remove afterwards): one of `SERVERS`. Not read where `database` is given.
        database: the URL of a database to drill instead; hidden in `repr`. Its user must be allowed to create tables; the drill
            removes its own ones at the end.
        may_break: the hosts of `database` or `app` that are not this machine: without being named here they are refused.
        workload: what is saved: one of `WORKLOADS`.
        subject: how: one of `SUBJECTS`.
        app: for the subject `app` the user's function (`module:function`), for `http` the address.
        faults: what goes wrong, by name; see `run.FAULTS`. Empty: nothing does, which shows what the drill costs.
        seconds: how long faults last, above 0. Before them comes a baseline of up to 6 s, after them a healed phase of 3 to 15 s.
        rate: operations a second, of all clients together; above 0. So many are due, whether or not earlier ones have ended.
        workers: client processes, 1 to 64.
        callers: how many operations all clients together may have under way; at least `workers`. What finds none of them free
            before its deadline is not sent, and stands as that in the history.
        connections: how many connections all clients together may open; at least `workers`.
        deadline: seconds each operation has from when it is due; above 0.
        limit: whether Holdfast's adaptive limit turns operations away: `off` (default), `dark` (it only says whom it would
            have) or `on`. For the subjects that have one.
        share: of all COMMITs, how many the fault `commit` hits; 0 to 1.
        every: seconds from the beginning of one scheduled fault to that of the next; above 0. A cluster needs
            `schedule.GALERA_SPACING_S`, which the command line takes for it.
        scope: how many nodes of a cluster a scheduled fault meets: `one`, `majority`, `all`, or `any` of these, drawn (default).
        seed: of everything that is drawn.
        output: the folder for history and report; must not hold a history yet.

    Raises:
        ConfigurationError: a value is out of its bounds, or two contradict each other.
    """

    server: str = "sqlite"
    database: str | None = field(default=None, repr=False)
    may_break: tuple[str, ...] = ()
    workload: str = "bank"
    subject: str = "holdfast"
    app: str | None = None
    faults: tuple[str, ...] = ("commit",)
    seconds: float = 10.0
    rate: float = 50.0
    workers: int = 2
    callers: int = 64
    connections: int = 24
    deadline: float = 10.0
    limit: Mode = "off"
    share: float = 0.2
    every: float = SPACING_S
    scope: str = "any"
    seed: int = 0
    output: Path = Path("drill")

    def __post_init__(self) -> None:
        if self.database is None and self.server not in SERVERS:
            raise ConfigurationError(
                f"unknown server {self.server!r}; choose {', '.join(SERVERS)}, or give a database URL"
            )
        if self.database is not None:
            read_database(self.database)
        if self.workload not in WORKLOADS:
            raise ConfigurationError(f"unknown workload {self.workload!r}; choose {', '.join(WORKLOADS)}")
        check_subject(self.subject, self.workload, self.app)
        if self.subject == "http" and self.app is not None:
            read_service(self.app)
        if self.limit not in LIMITS:
            raise ConfigurationError(f"unknown limit {self.limit!r}; choose {', '.join(LIMITS)}")
        if self.limit != "off" and not SUBJECTS[self.subject].has_limit:
            having = ", ".join(name for name, kind in SUBJECTS.items() if kind.has_limit)
            raise ConfigurationError(
                f"the subject {self.subject!r} has no limit that could be {self.limit}; those that have: {having}"
            )
        if self.scope not in SCOPES:
            raise ConfigurationError(f"unknown scope {self.scope!r}; choose {', '.join(SCOPES)}")
        for name in ("seconds", "rate", "deadline", "every"):
            if not 0 < getattr(self, name) < float("inf"):
                raise ConfigurationError(f"{name} must be above 0, not {getattr(self, name)}")
        if not 0 <= self.share <= 1:
            raise ConfigurationError(f"share is a share of all COMMITs, from 0 to 1, not {self.share}")
        if not 1 <= self.workers <= 64:
            raise ConfigurationError(f"workers must be from 1 to 64, not {self.workers}")
        for name in ("callers", "connections"):
            if getattr(self, name) < self.workers:
                raise ConfigurationError(
                    f"{name} must be at least {self.workers}, one for each worker, not {getattr(self, name)}"
                )
        if len(set(self.faults)) < len(self.faults):
            raise ConfigurationError("a fault is named twice")

    @property
    def baseline_s(self) -> float:
        """How long the drill looks on before anything goes wrong: a third of the time of the faults, 6 s at most."""
        return min(_BASELINE_MAX_S, self.seconds / 3)

    @property
    def healed_s(self) -> float:
        """How long it goes on after the last fault: 80 % of the time of the faults, 3 s at least, 15 s at most."""
        return min(_HEALED_MAX_S, max(_HEALED_MIN_S, 0.8 * self.seconds))

    @property
    def backend(self) -> str:
        """`sqlite`, `mysql`, `mariadb` or `postgresql`: how the URL begins."""
        if self.database is None:
            return _BACKENDS.get(self.server, self.server)
        return self.database.partition("://")[0].partition("+")[0]

    def told(self) -> dict[str, Any]:
        """The settings for the history: plain values, no URL of a database, no login of a service."""
        told = asdict(self)
        told["database"] = self.database is not None
        if self.subject == "http" and self.app is not None:
            told["app"] = place_of(self.app)
        told["output"] = str(self.output)
        for name in ("faults", "may_break"):
            told[name] = list(getattr(self, name))
        return told
