"""What a forked child begins anew: who counts, holds a lock or waits says so here, once, when it is made.

The child has one thread, a copy of the one that forked. A lock that another thread held is never given back there, a call that
another had under way never ends, and a sum that another was about to write may be half written. `multiprocessing` and servers
that load the application before they fork (gunicorn's `preload`) make such children.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Callable
from typing import Any, TypeVar
from weakref import WeakKeyDictionary

__all__ = ["ProcessLock", "after_fork"]

T = TypeVar("T")

_known: WeakKeyDictionary[Any, Callable[[Any], object]] = WeakKeyDictionary()


def after_fork(thing: T, start_over: Callable[[T], object]) -> None:
    """Have `start_over(thing)` called in every forked child, as long as `thing` exists.

    Args:
        thing: compared by identity, and not kept alive.
        start_over: takes no lock that the parent may have held.
    """
    _known[thing] = start_over


class ProcessLock:
    """A `threading.Lock` for `with` blocks that a forked child finds free, whoever held it in the parent.

    For what only guards a step or two: a child that must begin more than a lock anew says so itself.
    """

    __slots__ = ("__weakref__", "_lock")

    def __init__(self) -> None:
        self._free()
        after_fork(self, ProcessLock._free)

    def _free(self) -> None:
        self._lock = threading.Lock()

    def __enter__(self) -> None:
        self._lock.acquire()

    def __exit__(self, *_: object) -> None:
        self._lock.release()


def _start_over() -> None:
    for thing, start_over in list(_known.items()):
        start_over(thing)


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_start_over)
