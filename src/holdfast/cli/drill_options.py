"""The options of `holdfast drill`, their names and what the help says of them. The defaults are those of `DrillSettings`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

__all__ = [
    "App",
    "AsJson",
    "Callers",
    "Connections",
    "Database",
    "Deadline",
    "Elle",
    "Every",
    "Faults",
    "Limits",
    "ListAll",
    "MayBreak",
    "Output",
    "Rate",
    "Seconds",
    "Seed",
    "ServerKind",
    "Share",
    "Start",
    "Subjects",
    "Workers",
    "Workloads",
]

ServerKind = Annotated[
    str | None,
    typer.Option(
        "--server",
        metavar="KIND",
        help=(
            "Start a server in a temporary folder: sqlite, mariadb, mysql, postgresql, galera or postgresql-pair. "
            "Default sqlite."
        ),
    ),
]
Database = Annotated[
    str | None,
    typer.Option(
        "--database",
        metavar="URL",
        envvar="HOLDFAST_DRILL_DATABASE",
        help="Drill this database instead. In the environment it is in no list of processes.",
    ),
]
MayBreak = Annotated[
    list[str] | None,
    typer.Option(
        "--may-break", metavar="HOST", help="This host is mine to break. Needed for each that is not this machine."
    ),
]
Workloads = Annotated[
    list[str] | None,
    typer.Option("--workload", metavar="NAME", help="What is saved. Repeatable, or all. Default bank."),
]
Faults = Annotated[
    list[str] | None,
    typer.Option("--fault", metavar="NAME", help="What goes wrong. Repeatable, all or none. Default commit."),
]
Subjects = Annotated[
    list[str] | None,
    typer.Option(
        "--subject",
        metavar="NAME",
        help="How it is saved. Repeat it to compare: the first decides the exit code. Default holdfast.",
    ),
]
App = Annotated[
    str | None,
    typer.Option("--app", metavar="TARGET", help="Drill your own code: module:function, or the address of a service."),
]
Start = Annotated[
    str | None,
    typer.Option(
        "--start",
        metavar="COMMAND",
        help="Starts the service of --app http://..., with the drilled database in DATABASE_URL and DATABASE_URL_ASYNC.",
    ),
]
Seconds = Annotated[float | None, typer.Option("--seconds", help="How long faults last. Default 10.")]
Rate = Annotated[float | None, typer.Option("--rate", help="Operations a second due, of all clients. Default 50.")]
Workers = Annotated[int | None, typer.Option("--workers", help="Client processes. Default 2.")]
Callers = Annotated[int | None, typer.Option("--callers", help="Operations under way at once, at most. Default 64.")]
Connections = Annotated[int | None, typer.Option("--connections", help="Connections of all clients. Default 24.")]
Deadline = Annotated[float | None, typer.Option("--deadline", help="Seconds each operation has. Default 10.")]
Limits = Annotated[
    list[str] | None,
    typer.Option(
        "--limit",
        metavar="MODE",
        help="Holdfast's adaptive limit: off, dark or on. Repeat it to compare. Default off.",
    ),
]
Share = Annotated[
    float | None, typer.Option("--share", help="Of all COMMITs, how many the fault commit hits. Default 0.2.")
]
Scope = Annotated[
    str | None,
    typer.Option("--scope", help="Nodes of a cluster that a fault meets: one, majority, all or any. Default any."),
]
Every = Annotated[
    float | None, typer.Option("--every", help="Seconds from one fault to the next. Default 10, for a cluster 20.")
]
Seed = Annotated[
    int | None, typer.Option("--seed", help="Of everything that is drawn. Default a new one, which is told.")
]
Output = Annotated[
    Path | None,
    typer.Option("--output", metavar="FOLDER", help="For histories and reports. Default holdfast-drill-SEED."),
]
AsJson = Annotated[bool, typer.Option("--json", help="JSON on stdout, and nothing else there.")]
ListAll = Annotated[bool, typer.Option("--list", help="Show what there is to choose from, and end.")]
Elle = Annotated[
    Path | None,
    typer.Option("--elle", metavar="FILE", help="Write the history of the workload append for Elle, as EDN."),
]
