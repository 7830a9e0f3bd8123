"""MySQL, which Debian packages in its unstable branch only: run in a root file system of its own.

The file system is made once by mmdebstrap (needs root and Debian's archive, takes about 20 s) and kept in the user's cache
folder. Each server gets a data folder of its own inside it and runs there as `nobody`.
"""

from __future__ import annotations

import fcntl
import os
import pwd
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import psutil

from .mysql_protocol import ACCOUNTS_SQL, SETTINGS, MySQLProtocolServer
from .process import END_WITH_PARENT, ServerFailed, ServerMissing, run

__all__ = ["MySQL", "start", "version"]

_RUN_AS = "nobody"
_DATA_FOLDERS = "holdfast"
_SMALL = ["--innodb-redo-log-capacity=16M", "--disable-log-bin", "--mysqlx=OFF", "--performance-schema=OFF"]


class MySQL(MySQLProtocolServer):
    """A MySQL server inside its own root file system."""

    flavour = "mysql"

    def __init__(self, folder: Path, root: Path) -> None:
        super().__init__(folder, None)  # chroot needs root; it gives the rights up itself (--userspec)
        self.root = root

    def _command(self) -> list[str]:
        inside = _inside(self.root, self.folder)
        return [
            *_chroot(self.root),
            *END_WITH_PARENT,  # again: giving up rights clears it
            "mysqld",
            "--no-defaults",
            f"--datadir={inside}/data",
            f"--port={self.port}",
            f"--bind-address={self.host}",
            f"--socket={inside}/socket",
            f"--pid-file={inside}/pid",
            "--secure-file-priv=",
            *_SMALL,
            *SETTINGS,
        ]


def version() -> str:
    """The version in the cache."""
    root = _cached_root()
    if not root.is_dir():
        raise ServerMissing("MySQL is not built yet (the first test that needs it builds it)")
    if os.geteuid() != 0:
        raise ServerMissing("MySQL needs root: it runs in a root file system of its own")
    said = run([*_chroot(root), "mysqld", "--version"])
    return said.split("Ver ")[-1].split()[0]


def start() -> MySQL:
    """A new, empty, running MySQL server; the first call on a machine builds its root file system.

    Raises:
        ServerMissing: not root, mmdebstrap is not installed, or Debian's archive cannot be reached.
    """
    root = _root()

    def initialise(server: MySQL) -> None:
        (server.folder / "accounts.sql").write_text(ACCOUNTS_SQL)
        inside = _inside(root, server.folder)
        run(
            [
                *_chroot(root),
                "mysqld",
                "--no-defaults",
                "--initialize-insecure",
                f"--datadir={inside}/data",
                f"--init-file={inside}/accounts.sql",
                *_SMALL,
            ]
        )

    return MySQL(_data_folder(root), root).bring_up(initialise)


def _inside(root: Path, path: Path) -> str:
    return f"/{path.relative_to(root)}"


def _chroot(root: Path) -> list[str]:
    entry = pwd.getpwnam(_RUN_AS)
    return ["chroot", f"--userspec={entry.pw_uid}:{entry.pw_gid}", "--groups=", str(root)]


def _data_folder(root: Path) -> Path:
    """A new data folder named after this process; those of processes that ended without cleaning up are removed."""
    folders = root / _DATA_FOLDERS
    folders.mkdir(exist_ok=True)
    for left in folders.iterdir():
        if not psutil.pid_exists(int(left.name.partition("-")[0])):
            shutil.rmtree(left, ignore_errors=True)
    folder = Path(tempfile.mkdtemp(prefix=f"{os.getpid()}-", dir=folders))
    entry = pwd.getpwnam(_RUN_AS)
    os.chown(folder, entry.pw_uid, entry.pw_gid)
    return folder


def _cached_root() -> Path:
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    return cache / "holdfast" / "mysql"


def _root() -> Path:
    """The root file system, built on first use."""
    root = _cached_root()
    if os.geteuid() != 0:
        raise ServerMissing("MySQL needs root: it runs in a root file system of its own")
    root.parent.mkdir(parents=True, exist_ok=True)
    with _only_one(root.with_suffix(".lock")):
        if not root.is_dir():
            _build(root)
    return root


def _build(root: Path) -> None:
    mmdebstrap = shutil.which("mmdebstrap")
    if mmdebstrap is None:
        raise ServerMissing("MySQL is built by mmdebstrap, which is not installed: apt-get install mmdebstrap")
    # Built beside its place and renamed when complete: an interrupted build is never mistaken for a whole one.
    partial = root.with_suffix(".partial")
    shutil.rmtree(partial, ignore_errors=True)
    try:
        run(
            [
                mmdebstrap,
                "--variant=apt",
                '--aptopt=Acquire::Check-Valid-Until "false"',
                "--include=mysql-server-core",
                "sid",
                str(partial),
                _debian_mirror(),
            ]
        )
    except ServerFailed as error:
        shutil.rmtree(partial, ignore_errors=True)
        raise ServerMissing(f"MySQL's root file system could not be built; {error}") from error
    partial.rename(root)


def _debian_mirror() -> str:
    """The archive that this machine's apt uses."""
    for source in (Path("/etc/apt/sources.list.d/debian.sources"), Path("/etc/apt/sources.list")):
        for line in source.read_text().splitlines() if source.is_file() else []:
            words = line.split()
            if words[:1] == ["URIs:"]:
                return words[1]
            if words[:1] == ["deb"]:
                return next(word for word in words[1:] if "://" in word)
    raise ServerMissing("MySQL comes from Debian's archive, and this machine's apt names none")


@contextmanager
def _only_one(path: Path) -> Iterator[None]:
    """Hold the file lock `path`: several test processes may ask for the build at once."""
    with path.open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield
