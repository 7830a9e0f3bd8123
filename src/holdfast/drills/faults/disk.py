"""A disk that is full: a small file system of the drill's own, filled up and emptied again.

with SmallDisk(megabytes=256) as disk:
    server = mariadb.start(parent=disk.folder)      # or a SQLite file in that folder
    DiskFull(disk, server).start()
"""

from __future__ import annotations

import errno
import os
import shutil
import subprocess
import tempfile
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import psutil

from ...errors import ConfigurationError
from ..servers import Server

__all__ = ["DiskFull", "SmallDisk"]

_PREFIX = "holdfast-disk-"
_CHUNK = 1 << 20


class SmallDisk:
    """A file system in memory (tmpfs) for the length of a block; needs the right to mount.

    Disks that killed processes left mounted are removed by the next one. Whoever runs something on it ends that first.

    Args:
        megabytes: its size; MariaDB needs 200 and PostgreSQL 100 before the first row.

    Attributes:
        folder: where it is; everybody may enter it.

    Raises:
        ConfigurationError: on entering, where nothing can be mounted.
    """

    def __init__(self, megabytes: int = 256) -> None:
        self._megabytes = megabytes
        self.folder = Path(os.devnull)  # until it is mounted

    def __enter__(self) -> Self:
        _remove_left_ones()
        self.folder = Path(tempfile.mkdtemp(prefix=f"{_PREFIX}{os.getpid()}-"))
        done = _run("mount", "-t", "tmpfs", "-o", f"size={self._megabytes}m,mode=0755", "holdfast", str(self.folder))
        if done.returncode != 0:
            self.folder.rmdir()
            raise ConfigurationError(
                f"a full disk needs a small disk, and none can be mounted here ({done.stderr.strip()}): run the drill as root, "
                "or leave this fault out"
            )
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        _unmount(self.folder)

    def free_bytes(self) -> int:
        """How much fits on it yet."""
        return shutil.disk_usage(self.folder).free


class DiskFull:
    """Not a byte fits any more, until healed. A server that ended because of it is started again.

    Args:
        disk: which one.
        server: the server whose data it holds, if it is one's.
    """

    name = "disk-full"

    def __init__(self, disk: SmallDisk, server: Server | None = None) -> None:
        self._disk = disk
        self._ballast = disk.folder / "ballast"
        self._server = server

    def start(self) -> dict[str, Any]:
        """Fill it up.

        Raises:
            ConfigurationError: the disk is not mounted; another one, which the machine needs, would be filled.
        """
        if not self._disk.folder.is_mount():
            raise ConfigurationError("the small disk is not mounted: fill it inside its block")
        with self._ballast.open("wb", buffering=0) as file:
            size = _CHUNK
            while size:
                try:
                    file.write(bytes(size))
                except OSError as error:
                    if error.errno != errno.ENOSPC:
                        raise
                    size //= 2
        return {"ballast_bytes": self._ballast.stat().st_size}

    def heal(self) -> None:
        """Make room again."""
        self._ballast.unlink(missing_ok=True)
        if self._server is not None:
            self._server.heal()


def _remove_left_ones() -> None:
    for folder in Path(tempfile.gettempdir()).glob(f"{_PREFIX}*-*"):
        pid = folder.name.removeprefix(_PREFIX).partition("-")[0]
        if pid.isdigit() and not psutil.pid_exists(int(pid)):
            _unmount(folder)


def _unmount(folder: Path) -> None:
    # Lazily: a process that ends just now may hold it for a moment.
    _run("umount", "--lazy", str(folder))
    folder.rmdir()


def _run(*command: str) -> subprocess.CompletedProcess[str]:
    try:
        return subprocess.run(command, capture_output=True, text=True, check=False)  # noqa: S603 - our own commands
    except OSError as error:  # no such program
        return subprocess.CompletedProcess(command, 127, "", str(error))
