"""Subjects: how something is saved in a drill, a file for each kind.

`holdfast`, `holdfast-unkeyed` and `holdfast-threads` save through Holdfast; `plain` is SQLAlchemy alone; `tenacity` and
`tenacity-commit` are the usual recipes around it; `app` is the user's own code, and `http` a ledger behind an address.
"""

from __future__ import annotations

from ...errors import ConfigurationError
from ...ext.sqlalchemy.address import resolve
from ..workloads import TableWorkload, Workload
from .app import AppSubject, opener_named
from .over_http import OverHttp
from .protected import Protected, ProtectedThreads, ProtectedUnkeyed
from .subject import Remote, Reply, Subject, Terms
from .unprotected import Plain, Tenacity, TenacityCommit

__all__ = [
    "SUBJECTS",
    "Remote",
    "Reply",
    "Subject",
    "Terms",
    "check_subject",
    "driver_of",
    "open_subject",
    "with_driver",
]

_KINDS: tuple[type[Subject], ...] = (
    Protected,
    ProtectedUnkeyed,
    ProtectedThreads,
    Plain,
    Tenacity,
    TenacityCommit,
    AppSubject,
    OverHttp,
)

SUBJECTS: dict[str, type[Subject]] = {kind.name: kind for kind in _KINDS}
"""The subjects by name."""


def check_subject(name: str, workload: str, app: str | None) -> None:
    """Whether a subject fits a workload and what `--app` says.

    Raises:
        ConfigurationError: it does not; the text says what would.
    """
    if name not in SUBJECTS:
        raise ConfigurationError(f"unknown subject {name!r}; choose {', '.join(SUBJECTS)}")
    remote = issubclass(SUBJECTS[name], Remote)
    if remote and workload != name:
        raise ConfigurationError(f"the subject {name!r} knows its own tables only: take the workload {name!r} with it")
    if not remote and workload in ("app", "http"):
        raise ConfigurationError(
            f"the workload {workload!r} is saved by somebody else: take the subject {workload!r} with it"
        )
    if name == "app":
        opener_named(app or "")


def open_subject(name: str, url: str, workload: Workload, terms: Terms, *, app: str | None = None) -> Subject:
    """A subject, ready to perform.

    Args:
        name: one of `SUBJECTS`.
        url: the database; where its driver is of the wrong kind (asynchronous or not), the usual one of the right kind is taken.
            Unused by `http`.
        workload: what it will perform.
        terms: its conditions.
        app: for `app` the function that opens it, for `http` the address.

    Raises:
        ConfigurationError: as `check_subject`, or the URL does not fit.
    """
    check_subject(name, workload.name, app)
    kind = SUBJECTS[name]
    if kind is AppSubject:
        return AppSubject(url, opener_named(app or ""), terms)
    if kind is OverHttp:
        return OverHttp(app or "", terms)
    assert isinstance(workload, TableWorkload)
    if issubclass(kind, Plain):
        # SQLAlchemy knows of no more than one server.
        first = resolve(with_driver(url, asynchronous=True), asynchronous=True).url
        return kind(first.render_as_string(hide_password=False), workload, terms)
    if issubclass(kind, (Protected, ProtectedThreads)):
        return kind(with_driver(url, asynchronous=kind is not ProtectedThreads), workload, terms)
    raise ConfigurationError(f"the subject {name!r} cannot be opened")


_DRIVERS = {
    # backend: (synchronous ones, asynchronous ones), the usual one first
    "mysql": (("pymysql", "mysqldb", "mysqlconnector"), ("asyncmy", "aiomysql")),
    "mariadb": (("pymysql", "mysqldb", "mysqlconnector", "mariadbconnector"), ("asyncmy", "aiomysql")),
    "postgresql": (("psycopg", "psycopg2"), ("psycopg", "asyncpg")),
    "sqlite": (("pysqlite",), ("aiosqlite",)),
}


def driver_of(name: str, url: str) -> str | None:
    """The driver with which the subject `name` reaches `url`; None where that is its own affair."""
    if issubclass(SUBJECTS[name], Remote):
        return None
    asynchronous = SUBJECTS[name] is not ProtectedThreads
    return with_driver(url, asynchronous=asynchronous).partition("://")[0].partition("+")[2]


def with_driver(url: str, *, asynchronous: bool) -> str:
    """`url` with a driver of the wanted kind: its own where that fits, else the usual one.

    Only what stands in front of `://` is looked at, so a URL may name several hosts.

    Raises:
        ConfigurationError: it is no database URL, or of a database that there are no drills for.
    """
    scheme, separator, rest = url.partition("://")
    backend, _, driver = scheme.partition("+")
    if not separator or backend not in _DRIVERS:
        raise ConfigurationError(
            f"a drill needs a database URL that begins with {', '.join(f'{name}://' for name in _DRIVERS)}"
        )
    fitting = _DRIVERS[backend][asynchronous]
    return f"{backend}+{driver if driver in fitting else fitting[0]}://{rest}"
