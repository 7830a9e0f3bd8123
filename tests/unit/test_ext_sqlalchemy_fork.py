"""What a forked child of a process with a `Database` must not share with it."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from holdfast.ext.sqlalchemy import Database, DatabaseSettings

pytestmark = pytest.mark.skipif(not hasattr(os, "fork"), reason="there is no fork here")


def test_what_the_parent_has_under_way_is_not_the_childs(tmp_path: Path) -> None:
    """Else its operations would be refused for others' sake, and expired key rows never be removed again."""
    with Database(f"sqlite:///{tmp_path / 'fork.db'}", DatabaseSettings(limit="on")) as db:
        runtime = db._runtime
        assert runtime.limit is not None
        permit = runtime.limit.acquire()
        assert runtime._purging.acquire(blocking=False)
        child = os.fork()
        if child == 0:  # pragma: no cover - another process
            os._exit(0 if runtime.limit.in_flight == 0 and runtime._purging.acquire(blocking=False) else 1)
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
        permit.ignored()


def test_attempts_of_parent_and_child_are_told_apart(tmp_path: Path) -> None:
    """Else the child would take a key row that its parent has just written for its own."""
    with Database(f"sqlite:///{tmp_path / 'fork.db'}") as db:
        parents = next(db._runtime.serials)
        reading, writing = os.pipe()
        child = os.fork()
        if child == 0:  # pragma: no cover - another process
            os.write(writing, str(next(db._runtime.serials)).encode())
            os._exit(0)
        os.close(writing)
        with os.fdopen(reading) as said:
            childs = int(said.read())
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
        assert next(db._runtime.serials) == parents + 1
        assert abs(childs - parents) > 1_000_000  # two random starts of 48 bits are that close once in 10^8 runs
