"""`holdfast doctor`: look at a database and the pools in front of it, before they break a promise."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any
from urllib.parse import unquote, urlsplit

import typer
from rich.markup import escape

from ..clock import SYSTEM_CLOCK
from ..dialects import Flavour, classify
from ..doctor import ClientFacts, Finding, Severity, checks, examine, file_system_of
from ..errors import ConfigurationError, HoldfastError, error_for
from ..outcome import Stage
from .terminal import ExitCode, results, write_json

if TYPE_CHECKING:
    from ..ext.sqlalchemy import Endpoint

__all__ = ["doctor", "exit_code", "with_synchronous_driver"]

ANSWER_WITHIN_S = 30.0
"""How long one question may take: then a server that fell silent is cut off, and SQLite's check of its file is given up."""

_ASYNCHRONOUS = frozenset({"aiomysql", "aiosqlite", "asyncmy", "asyncpg", "psycopg_async"})
_TITLES = {
    Severity.ERROR: ("bold red", "Errors: these break the promise"),
    Severity.WARNING: (
        "yellow",
        "Warnings: operations fail that need not, or it hangs on what cannot be seen from here",
    ),
    Severity.NOTE: ("cyan", "Notes"),
    Severity.UNSEEN: ("magenta", "Unseen: this user may not look"),
}
_MOUNTS = Path("/proc/self/mounts")


def doctor(
    database: Annotated[
        str,
        typer.Option(
            "--database",
            help="URL as SQLAlchemy takes it; better in the environment than here, where every user of the machine can read it.",
            envvar="DATABASE_URL",
            show_default=False,
        ),
    ],
    processes: Annotated[int, typer.Option("--processes", min=1, help="Processes with a pool of their own.")] = 1,
    pool_open: Annotated[int, typer.Option("--pool-open", min=1, help="PoolSettings.open_max of each.")] = 100,
    deadline: Annotated[
        float, typer.Option("--deadline", min=0.001, max=86_400, help="Default deadline, seconds.")
    ] = 10.0,
    isolation: Annotated[
        str, typer.Option("--isolation", help="As the database is opened: snapshot, serializable or 'read committed'.")
    ] = "snapshot",
    ignore: Annotated[list[str] | None, typer.Option("--ignore", help="A check to leave out; may be repeated.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="One JSON document instead of text.")] = False,
    strict: Annotated[bool, typer.Option("--strict", help="Warnings fail as well.")] = False,
) -> None:
    """Look for settings of server, session and pool that break the promise.

    Connects as Holdfast does (on SQLite that turns WAL on), reads, and writes nothing.
    Exit codes: 0 no errors, 1 errors (with --strict also warnings), 2 could not look.
    """
    from ..ext.sqlalchemy import PoolSettings, SessionSettings, open_endpoint

    ignored = _known_checks(ignore or [])
    endpoint = open_endpoint(
        with_synchronous_driver(database),
        pool=PoolSettings(size=1, open_max=1),
        session=SessionSettings(isolation=isolation, deadline=deadline),
    )
    client = ClientFacts(
        deadline_s=deadline,
        processes=processes,
        pool_open=pool_open,
        isolation=isolation.lower(),
        file_system=_file_system(endpoint) if endpoint.address.backend == Flavour.SQLITE else None,
    )
    try:
        findings = [finding for finding in _look(endpoint, client) if finding.check not in ignored]
    finally:
        endpoint.close()
    code = exit_code(findings, strict=strict)
    if as_json:
        write_json(_document(endpoint, findings, code))
    else:
        _show(endpoint, findings)
    raise typer.Exit(code)


def exit_code(findings: list[Finding], *, strict: bool) -> ExitCode:
    """What the findings come to for a shell: errors fail, warnings only where `strict`, notes and what was not seen never."""
    fails = {Severity.ERROR, Severity.WARNING} if strict else {Severity.ERROR}
    return ExitCode.INVALID if any(finding.severity in fails for finding in findings) else ExitCode.VALID


def with_synchronous_driver(url: str) -> str:
    """`url` without its driver where that is an asynchronous one, so that the default takes its place."""
    scheme, separator, rest = url.partition("://")
    backend, _, driver = scheme.partition("+")
    return f"{backend}{separator}{rest}" if driver in _ASYNCHRONOUS else url


def _known_checks(names: list[str]) -> frozenset[str]:
    known = {check.name for flavour in Flavour for check in checks(flavour)}
    unknown = sorted(set(names) - known)
    if unknown:
        raise ConfigurationError(
            f"--ignore: no check is called {', '.join(unknown)}; there are {', '.join(sorted(known))}"
        )
    return frozenset(names)


def _file_system(endpoint: Endpoint) -> str | None:
    """The type of the file system that holds SQLite's file, where the machine tells (Linux).

    Raises:
        ConfigurationError: the file is not there; connecting would create it.
    """
    name = _file_of(endpoint)
    if name is None:
        return None
    if not Path(name).is_file():
        raise ConfigurationError(f"there is no file {name}; the doctor looks at databases, it makes none")
    try:
        return file_system_of(os.path.realpath(name), _MOUNTS.read_text(encoding="utf-8", errors="replace"))
    except OSError:
        return None


def _file_of(endpoint: Endpoint) -> str | None:
    """The path of SQLite's file, as SQLite will be told it; None for a database in memory."""
    if endpoint.address.in_memory:
        return None
    (told,), how = endpoint.engine.dialect.create_connect_args(endpoint.address.url)
    name = str(told)
    return unquote(urlsplit(name).path) if how.get("uri") and name.startswith("file:") else name


def _look(endpoint: Endpoint, client: ClientFacts) -> list[Finding]:
    """The findings.

    Raises:
        HoldfastError: the server could not be reached, or fell silent.
    """
    with _told_as_ours(Stage.CONNECT, endpoint):
        connection = endpoint.engine.connect()
    try:
        from ..ext.sqlalchemy.engines import READ_ONLY
        from ..ext.sqlalchemy.watchdog import WATCHDOG

        assert endpoint.flavour is not None  # connected
        connection = connection.execution_options(**{READ_ONLY: True})
        driver_connection = connection.connection.driver_connection

        def ask(sql: str) -> list[tuple[Any, ...]]:
            with WATCHDOG.guard(driver_connection, SYSTEM_CLOCK.monotonic() + ANSWER_WITHIN_S):
                try:
                    return [tuple(row) for row in connection.exec_driver_sql(sql)]
                finally:
                    connection.rollback()

        with _told_as_ours(Stage.BODY, endpoint):
            return examine(ask, endpoint.flavour, client)
    finally:
        connection.close()


@contextmanager
def _told_as_ours(stage: Stage, endpoint: Endpoint) -> Iterator[None]:
    """Raise a driver's error as the error of Holdfast that it means: its text holds names and numbers alone."""
    try:
        yield
    except HoldfastError:
        raise
    except Exception as error:
        failure = classify(error, stage=stage, flavour=endpoint.flavour)
        if failure.flavour is None and not isinstance(error, OSError):
            raise
        raise error_for(failure, operation=_place(endpoint)) from None


def _place(endpoint: Endpoint) -> str:
    """The address without password and query, which may hold secrets."""
    url = endpoint.address.url
    user = f"{url.username}@" if url.username else ""
    port = f":{url.port}" if url.port else ""
    return f"{url.get_backend_name()}://{user}{url.host or ''}{port}/{url.database or ''}"


def _document(endpoint: Endpoint, findings: list[Finding], code: ExitCode) -> dict[str, Any]:
    return {
        "database": _place(endpoint),
        "flavour": str(endpoint.flavour),
        "version": endpoint.server_version,
        "exit_code": int(code),
        "findings": [
            {
                "check": finding.check,
                "severity": str(finding.severity),
                "found": finding.found,
                "reason": finding.reason,
                "cure": finding.cure,
            }
            for finding in findings
        ],
    }


def _show(endpoint: Endpoint, findings: list[Finding]) -> None:
    out = results()
    out.print(
        f"[bold]{escape(f'{endpoint.flavour} {endpoint.server_version}')}[/] {escape(_place(endpoint))}", soft_wrap=True
    )
    for severity, (style, title) in _TITLES.items():
        group = [finding for finding in findings if finding.severity is severity]
        if not group:
            continue
        out.print(f"\n[{style}]{title}[/]")
        for finding in group:
            out.print(f"\n  [{style}]{finding.check}[/]  {escape(finding.found)}", soft_wrap=True)
            out.print(f"    why   {escape(finding.reason)}", soft_wrap=True)
            out.print(f"    cure  {escape(finding.cure)}", soft_wrap=True)
    looked_at = len(checks(endpoint.flavour or Flavour.SQLITE))
    counts = [f"{sum(finding.severity is severity for finding in findings)} {severity}" for severity in Severity]
    out.print(f"\n{looked_at} checks: {', '.join(counts)}")
