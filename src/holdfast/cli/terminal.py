"""What every command shares: exit codes, and the rule that results go to stdout and everything else to stderr."""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping
from enum import IntEnum
from typing import Any

from rich.console import Console

__all__ = ["ExitCode", "notes", "results", "write_json"]


class ExitCode(IntEnum):
    """What a command tells the shell."""

    VALID = 0
    """Done, and nothing is wrong."""
    INVALID = 1
    """Done, and something is wrong: a checker found a broken promise, the doctor an error."""
    USAGE = 2
    """Not done: a wrong option, something that is not installed, a server that cannot be reached, a defect of Holdfast."""
    UNKNOWN = 3
    """Done, and nothing wrong was seen, but too little happened to say that nothing is."""


def results() -> Console:
    """A console on stdout: for what the command was asked for. Made anew for each use, because tests exchange the stream."""
    return Console(file=sys.stdout, highlight=False)


def notes() -> Console:
    """A console on stderr: for progress, errors and remarks, so that stdout stays clean for `--json` and pipes."""
    return Console(file=sys.stderr, highlight=False)


def write_json(value: Mapping[str, Any]) -> None:
    """Write `value` to stdout as one JSON document, indented for a person, with what JSON cannot say as text."""
    json.dump(value, sys.stdout, indent=2, default=str, ensure_ascii=False)
    sys.stdout.write("\n")
