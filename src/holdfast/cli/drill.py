"""`holdfast drill`: real saves under real faults, a verdict, and a report."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

from ..clock import system_random
from ..dialects import classify
from ..errors import ConfigurationError, HoldfastError, error_for
from ..outcome import Stage
from . import drill_options as option
from .choices import choices, choices_table, possible_faults
from .consent import check_consent, is_address
from .progress import display_for
from .replay import replay_command
from .terminal import notes, results, write_json
from .verdicts import check_installed, exit_code_for, json_of, show

if TYPE_CHECKING:
    from ..drills.report import Report, ReportFiles, Run
    from ..drills.settings import DrillSettings

__all__ = ["Plan", "drill", "free_folder", "plan_of"]


def drill(
    server: option.ServerKind = None,
    database: option.Database = None,
    may_break: option.MayBreak = None,
    workload: option.Workloads = None,
    fault: option.Faults = None,
    subject: option.Subjects = None,
    app: option.App = None,
    start: option.Start = None,
    seconds: option.Seconds = None,
    rate: option.Rate = None,
    workers: option.Workers = None,
    callers: option.Callers = None,
    connections: option.Connections = None,
    deadline: option.Deadline = None,
    limit: option.Limits = None,
    share: option.Share = None,
    every: option.Every = None,
    scope: option.Scope = None,
    seed: option.Seed = None,
    output: option.Output = None,
    elle: option.Elle = None,
    as_json: option.AsJson = False,
    list_all: option.ListAll = False,
) -> None:
    """Break a database while it is saved to, and say whether every promise held.

    Alone: Holdfast on an embedded SQLite, in seconds. It touches this machine only, unless --may-break names another.
    """
    check_installed()
    if list_all:
        write_json(choices()) if as_json else results().print(choices_table(choices()))
        return
    seed = int(system_random() * 2**32) if seed is None else seed
    given = {"server": server, "database": database, "app": app, "start": start, "seconds": seconds, "rate": rate}
    given |= {"workers": workers, "callers": callers, "connections": connections, "deadline": deadline}
    given |= {"share": share, "every": every, "scope": scope}
    plan = plan_of(
        {name: value for name, value in given.items() if value is not None} | {"seed": seed},
        may_break=may_break or (),
        workloads=workload or (),
        faults=fault or (),
        subjects=subject or (),
        limits=limit or (),
        output=output or free_folder(Path(f"holdfast-drill-{seed}")),
    )
    if elle is not None and "append" not in plan.runs:
        raise ConfigurationError("--elle needs the workload append: add --workload append")
    reports = {name: _drilled(plan, name) for name in plan.runs}
    if elle is not None:
        _export(plan.runs["append"][0].output, elle)
    if as_json:
        write_json(json_of(reports, command=plan.command, seed=seed))
    else:
        for report, files in reports.values():
            show(results(), report, files)
    raise typer.Exit(exit_code_for(report.validity for report, _ in reports.values()))


# -- what is to be done --------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Plan:
    """What a call of `holdfast drill` asks for.

    Attributes:
        runs: the settings of each run, by workload: one for each subject, in the order they were named.
        command: what asks for the same again.
        start: the command that starts the service that is drilled, or None.
    """

    runs: Mapping[str, Sequence[DrillSettings]]
    command: str
    start: str | None = None


def plan_of(
    given: Mapping[str, Any],
    *,
    may_break: Sequence[str],
    workloads: Sequence[str],
    faults: Sequence[str],
    subjects: Sequence[str],
    limits: Sequence[str] = (),
    output: Path,
) -> Plan:
    """The runs that the options ask for; nothing is touched yet.

    Args:
        given: what was given of the fields of `DrillSettings`, by their names, and `start`.
        may_break: the hosts that the user named as theirs to break.
        workloads, faults, subjects, limits: as on the command line: names, `all` or `none`; empty for the defaults. Each subject
            that has a limit is run with each of `limits`.
        output: the folder above all others.

    Raises:
        ConfigurationError: a value is wrong, two contradict each other, or a host was not named as the user's.
    """
    from ..drills.given import read_database
    from ..drills.schedule import GALERA_SPACING_S
    from ..drills.settings import DrillSettings

    database, app = given.get("database"), given.get("app")
    if database is not None and "server" in given:
        raise ConfigurationError("--server starts a server and --database takes one that runs: give one of the two")
    if database is not None:
        read_database(database)  # before its host is looked at: of an unknown kind it has none
    for url in (database, app if is_address(app) else None):
        if url is not None:
            check_consent(url, may_break)
    shared = {name: value for name, value in given.items() if name != "start"}
    if "start" in given and not is_address(app):
        raise ConfigurationError("--start starts the service of --app http://...: name its address")
    if given.get("server") == "galera":
        shared.setdefault("every", GALERA_SPACING_S)
    named = _faults(faults)
    if faults and "all" not in faults:
        shared["faults"] = named
    if may_break:
        shared["may_break"] = tuple(may_break)
    runs = {}
    for workload in _workloads(workloads, app):
        runs[workload] = [
            DrillSettings(**shared, workload=workload, subject=subject, limit=limit, output=output / workload / folder)
            for subject, limit, folder in _limited(_subjects(subjects, app), limits)
        ]
    if "all" in faults:
        possible = possible_faults(settings for run in runs.values() for settings in run)
        runs = {name: [replace(settings, faults=possible) for settings in run] for name, run in runs.items()}
    repeated = {"may-break": may_break, "workload": workloads, "fault": faults, "subject": subjects, "limit": limits}
    return Plan(runs, replay_command(given, repeated), given.get("start"))


def free_folder(wanted: Path) -> Path:
    """`wanted`, or the first of `wanted-2`, `wanted-3`, ... that does not exist: a drill overwrites no other."""
    folder, number = wanted, 1
    while folder.exists():
        number += 1
        folder = wanted.with_name(f"{wanted.name}-{number}")
    return folder


def _workloads(asked: Sequence[str], app: str | None) -> Sequence[str]:
    from ..drills.workloads import WORKLOADS

    if app is not None:
        if asked:
            raise ConfigurationError("--app brings its own workload: leave --workload out")
        return ("http" if is_address(app) else "app",)
    _check_names("workload", asked, WORKLOADS)
    if "all" in asked:
        return [name for name in WORKLOADS if name not in ("app", "http")]
    return list(dict.fromkeys(asked)) or ("bank",)


def _subjects(asked: Sequence[str], app: str | None) -> Sequence[str]:
    if app is None:
        return list(dict.fromkeys(asked)) or ("holdfast",)
    if asked:
        raise ConfigurationError("--app is what is drilled: leave --subject out")
    return ("http" if is_address(app) else "app",)


def _limited(subjects: Sequence[str], limits: Sequence[str]) -> Iterator[tuple[str, Any, str]]:
    """Each subject with each limit that it can be run with, and the name of its folder."""
    from ..drills.subjects import SUBJECTS

    modes = list(dict.fromkeys(limits)) or ["off"]
    can = [subject for subject in subjects if subject not in SUBJECTS or SUBJECTS[subject].has_limit]
    for subject in subjects:
        # Where none has a limit the settings say so; beside one that has, the others are there to compare.
        for mode in modes if subject in can or not can else ["off"]:
            yield subject, mode, subject if len(modes) == 1 or subject not in can else f"{subject}-limit-{mode}"


def _faults(asked: Sequence[str]) -> tuple[str, ...]:
    from ..drills.run import FAULTS

    _check_names("fault", asked, (*FAULTS, "none"))
    if "none" in asked:
        if len(set(asked)) > 1:
            raise ConfigurationError("--fault none contradicts the other faults")
        return ()
    return tuple(dict.fromkeys(asked))


def _check_names(option: str, asked: Sequence[str], known: Iterable[str]) -> None:
    """Whether each name is known: before `all` takes the place of all of them."""
    known = (*known, "all")
    for name in asked:
        if name not in known:
            raise ConfigurationError(f"unknown {option} {name!r}; choose {', '.join(known)}")


def _folders(plan: Plan, workload: str) -> list[Path]:
    return [settings.output for settings in plan.runs[workload]]


# -- doing it ------------------------------------------------------------------------------------------------------------


def _drilled(plan: Plan, workload: str) -> tuple[Report, ReportFiles]:
    """Run one workload with every subject, judge, and write the report."""
    from ..drills.report import Report, write_report

    runs = [_run(settings, plan.start) for settings in plan.runs[workload]]
    folders = _folders(plan, workload)
    histories = {run.name: str(folder) for run, folder in zip(runs, folders, strict=True)}
    report = Report(tuple(runs), plan.command, histories)
    return report, write_report(report, folders[0].parent)


def _run(settings: DrillSettings, start: str | None = None) -> Run:
    from ..drills.history import History
    from ..drills.report import run_of
    from ..drills.run import run
    from ..drills.service import started

    title = f"{settings.workload} with {settings.subject}"
    try:
        with _plain_errors(settings), display_for(notes(), title) as display:
            service = None if start is None else started(start, settings.app or "", settings.output / "service.log")
            result = run(settings, display.show, service=service)
    except (KeyboardInterrupt, SystemExit):
        told = f"Stopped; everything is healed and removed. What happened so far: {settings.output}"
        notes().print(told, soft_wrap=True, markup=False)
        raise
    return run_of(History.load(result.history_path), result.verdicts)


@contextmanager
def _plain_errors(settings: DrillSettings) -> Iterator[None]:
    """What a drill cannot do is one line for the user, whoever found out; a defect stays one."""
    from ..drills.servers import ServerFailed, ServerMissing

    try:
        yield
    except HoldfastError:
        raise
    except (ServerMissing, ServerFailed) as error:
        raise ConfigurationError(str(error)) from error
    except Exception as error:
        failure = classify(error, stage=Stage.CONNECT)
        if failure.flavour is None:
            raise
        raise error_for(failure, operation=f"the database{_where(settings)} cannot be drilled") from error


def _where(settings: DrillSettings) -> str:
    from ..drills.given import read_database
    from ..ext.sqlalchemy.address import server_of

    server = None if settings.database is None else server_of(read_database(settings.database))
    return "" if server is None else f" at {server}"


def _export(folder: Path, path: Path) -> None:
    from ..drills.elle import export
    from ..drills.history import History

    count = export(History.load(folder), path)
    notes().print(f"{count} operations for Elle: {path}", soft_wrap=True, markup=False)
