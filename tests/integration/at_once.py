"""Run the same work in four processes that start at the same moment."""

from __future__ import annotations

import subprocess
import sys

__all__ = ["PROCESSES", "at_once"]

PROCESSES = 4

_START = """
import os, sys, traceback
gate, opener = os.pipe()
children = []
for _ in range({processes}):
    child = os.fork()
    if child == 0:
        os.close(opener)
        os.read(gate, 1)  # returns when the parent opens the gate
        try:
            os.write(1, (str(work(sys.argv[1])) + "\\n").encode())
        except BaseException:
            os.write(2, traceback.format_exc().encode())
        os._exit(0)
    children.append(child)
os.close(opener)
for child in children:
    os.waitpid(child, 0)
"""


def at_once(source: str, argument: str) -> list[str]:
    """What `work(argument)`, defined by `source`, returns in each process; what it imports is imported once.

    Raises:
        AssertionError: a process failed; the text holds its traceback.
    """
    command = [sys.executable, "-W", "error", "-c", source + _START.format(processes=PROCESSES), argument]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert done.stderr == ""
    return done.stdout.split()
