"""The command line: `holdfast drill`, `holdfast check`, `holdfast doctor`, `holdfast explain`.

Needs the extra `cli`; what a command needs beyond it, the command asks for. This module is what the entry point loads, and it
imports the standard library alone: without the extra it says in one line how to get it.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from importlib.util import find_spec

__all__ = ["main"]


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command.

    Args:
        arguments: what stands behind `holdfast` on the command line; default `sys.argv[1:]`.

    Returns:
        The exit code of the process, as in `holdfast.cli.terminal.ExitCode`.
    """
    if missing := [name for name in ("typer", "rich") if find_spec(name) is None]:
        print(f"holdfast: the command line needs {' and '.join(missing)}: pip install 'holdfast[cli]'", file=sys.stderr)
        return 2
    from .app import run

    return run(arguments)
