"""The command that asks for a drill again, from its options or from what its history says of them. Pure."""

from __future__ import annotations

import shlex
from collections.abc import Mapping, Sequence
from typing import Any

__all__ = ["command_of", "replay_command"]


def replay_command(given: Mapping[str, Any], repeated: Mapping[str, Sequence[str]]) -> str:
    """The command that asks for the same drill, ready for a shell. Passwords are left out: `***` stands for each.

    Args:
        given: options with one value, by name.
        repeated: options with several.
    """
    from ..drills.report.redaction import redacted

    words = ["holdfast", "drill"]
    for name, value in given.items():
        words += [f"--{name}", redacted(f"{value:g}" if isinstance(value, float) else str(value))]
    for name, values in repeated.items():
        for value in values:
            words += [f"--{name}", value]
    return shlex.join(words)


def command_of(told: Mapping[str, Any]) -> str:
    """The same from the settings that a history holds (`DrillSettings.told`); what is at its default is left out.

    A history holds no URL, so a drill of a given database asks for one.
    """
    from ..drills.settings import DrillSettings

    standard = DrillSettings().told()
    given: dict[str, Any] = {"database": "URL"} if told.get("database") else {}
    repeated: dict[str, Sequence[str]] = {}
    for name, value in told.items():
        if name in ("database", "output") or (name != "seed" and value == standard.get(name)):
            continue
        if name == "faults":
            repeated["fault"] = value or ["none"]
        elif name == "may_break":
            repeated["may-break"] = value
        elif name in ("workload", "subject"):
            repeated[name] = [] if told.get("app") else [value]
        elif name in standard and not (name == "server" and told.get("database")):
            given[name] = value
    return replay_command(given, repeated)
