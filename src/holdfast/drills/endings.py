"""SIGTERM and SIGHUP end a drill as Ctrl-C does: by an exception, on whose way out everything is healed and removed.

    with orderly_end():
        ...

Left to themselves both end the process on the spot: no `finally` runs and no `atexit`, and a database stays broken.
"""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

__all__ = ["orderly_end"]

_SIGNALS = tuple(getattr(signal, name) for name in ("SIGTERM", "SIGHUP") if hasattr(signal, name))


@contextmanager
def orderly_end() -> Iterator[None]:
    """In the block SIGTERM and SIGHUP raise `SystemExit` with 143 and 129, once: a second one does not disturb the cleaning up.

    A signal that somebody handles or ignores is theirs and stays so (`nohup` ignores SIGHUP). Outside of the main thread, which
    alone may handle signals, nothing happens.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    taken = [number for number in _SIGNALS if signal.getsignal(number) is signal.SIG_DFL]

    def end(number: int, _: FrameType | None) -> None:
        for each in taken:
            signal.signal(each, signal.SIG_IGN)
        raise SystemExit(128 + number)

    for number in taken:
        signal.signal(number, end)
    try:
        yield
    finally:
        for number in taken:
            signal.signal(number, signal.SIG_DFL)
