"""A service of the user's, started by the drill on the database that is drilled, so that its connections go through the proxy.

service = started("python -m shop", "http://127.0.0.1:8000", log)
with service(database_url) as address: ...
"""

from __future__ import annotations

import os
import socket
import subprocess
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING

import psutil

from ..clock import SYSTEM_CLOCK
from ..errors import ConfigurationError
from .given import place_of, read_service
from .subjects import with_driver

if TYPE_CHECKING:
    from .run import Service

__all__ = ["started"]

READY_WITHIN_S = 60.0
STOPPED_WITHIN_S = 30.0
_STEP_S = 0.1


def started(command: str, address: str, log: Path, *, within_s: float = READY_WITHIN_S) -> Service:
    """What `run.run` takes as `service`: runs `command` in a shell for the length of a block, once `address` takes connections.

    In its environment is the database: `DATABASE_URL` with a synchronous driver, `DATABASE_URL_ASYNC` with an asynchronous one.

    Args:
        command: as typed into a shell.
        address: where it will listen, such as `http://127.0.0.1:8000`.
        log: the file for what it prints.
        within_s: how long that may take, seconds.

    Raises:
        ConfigurationError: when the block is entered: it ended, or nobody listened in time, or somebody listens there already.
    """

    def service(url: str) -> AbstractContextManager[str]:
        return _running(command, address, log, url, within_s)

    return service


@contextmanager
def _running(command: str, address: str, log: Path, url: str, within_s: float) -> Iterator[str]:
    if _answers(address):
        raise ConfigurationError(
            f"somebody listens at {place_of(address)} already; end that, or choose another port for --start"
        )
    environment = {
        **os.environ,
        "DATABASE_URL": with_driver(url, asynchronous=False),
        "DATABASE_URL_ASYNC": with_driver(url, asynchronous=True),
    }
    with log.open("wb") as file:
        process = subprocess.Popen(  # noqa: S603 - the command that the user typed
            ["/bin/sh", "-c", command],
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=file,
            stderr=file,
            start_new_session=True,  # Ctrl-C is for the drill, which then ends the service; and what it started goes with it
        )
    try:
        _wait(process, command, address, log, within_s)
        yield address
    finally:
        _end(process)


def _wait(process: subprocess.Popen[bytes], command: str, address: str, log: Path, within_s: float) -> None:
    give_up_at = SYSTEM_CLOCK.monotonic() + within_s
    while not _answers(address):
        if process.poll() is not None:
            raise ConfigurationError(
                f"{command!r} ended with {process.returncode} before it listened at {place_of(address)}; see {log}"
            )
        if SYSTEM_CLOCK.monotonic() > give_up_at:
            raise ConfigurationError(
                f"{command!r} did not listen at {place_of(address)} within {within_s:g} s; see {log}"
            )
        SYSTEM_CLOCK.sleep(_STEP_S)


def _answers(address: str) -> bool:
    url = read_service(address)
    with suppress(OSError):
        port = url.port or (443 if url.scheme == "https" else 80)
        socket.create_connection((url.host, port), timeout=1.0).close()
        return True
    return False


def _end(process: subprocess.Popen[bytes]) -> None:
    """SIGTERM for the shell and all that it started, which may take its time, as it may go on when the shell has gone."""
    everybody: list[psutil.Process] = []
    with suppress(psutil.NoSuchProcess):
        shell = psutil.Process(process.pid)
        everybody = [shell, *shell.children(recursive=True)]
    for each in everybody:
        with suppress(psutil.NoSuchProcess):
            each.terminate()
    _, left = psutil.wait_procs(everybody, STOPPED_WITHIN_S)
    for each in left:
        with suppress(psutil.NoSuchProcess):
            each.kill()
    psutil.wait_procs(left, 1.0)
    process.wait()
