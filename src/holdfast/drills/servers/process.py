"""A database server as a process: start, stop, kill, pause, ask.

What differs between flavours (how to initialise, which command, how to log in) stands in their own files.
"""

from __future__ import annotations

import abc
import os
import pwd
import shutil
import signal
import socket
import subprocess
import tempfile
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, ClassVar, Self

import psutil

from ...clock import SYSTEM_CLOCK, new_token

__all__ = [
    "END_WITH_PARENT",
    "Server",
    "ServerFailed",
    "ServerMissing",
    "account_or_caller",
    "free_port",
    "run",
    "temporary_folder",
]

HOST = "127.0.0.1"
READY_WITHIN_S = 60.0
STOPPED_WITHIN_S = 20.0

END_WITH_PARENT = ["setpriv", "--pdeathsig", "KILL"] if shutil.which("setpriv") else []
"""In front of a command: the kernel kills it when the thread that started it ends, so no server outlives a killed test run."""

# That thread lives as long as the interpreter: a test may restart a server from any short-lived one.
_spawner = ThreadPoolExecutor(max_workers=1, thread_name_prefix="server-spawner")


class ServerMissing(Exception):
    """This machine cannot provide the server; the text says what would."""


class ServerFailed(Exception):
    """The server is here but did not do what it was told; the text ends with its log."""


def free_port(host: str = HOST) -> int:
    """A free port of the loopback address `host` below the ephemeral range.

    A port of the ephemeral range could be taken as somebody's source port while its server is down for a test, and a client
    that retries against it can even end up connected to itself.
    """
    for _ in range(200):
        # From the operating system: two runs side by side, even with one seed, must not draw the same ports.
        port = 20_000 + int(new_token(), 16) % 12_000
        with socket.socket() as probe, suppress(OSError):
            probe.bind((host, port))
            return port
    raise ServerFailed(f"no free port of {host} between 20000 and 32000")


def temporary_folder(flavour: str, account: str | None, parent: Path | None = None) -> Path:
    """A new folder that `account` owns (None: the caller), in `parent` (None: where temporary files go)."""
    folder = Path(tempfile.mkdtemp(prefix=f"holdfast-{flavour}-", dir=parent))
    if account is not None:
        entry = pwd.getpwnam(account)
        os.chown(folder, entry.pw_uid, entry.pw_gid)
    return folder


def account_or_caller(account: str) -> str | None:
    """The unprivileged account to run as: `account` (or `nobody`) for root, None for anybody else."""
    if os.geteuid() != 0:
        return None
    try:
        pwd.getpwnam(account)
    except KeyError:
        return "nobody"
    return account


def _as_account(account: str | None) -> dict[str, Any]:
    if account is None:
        return {}
    entry = pwd.getpwnam(account)
    return {"user": entry.pw_uid, "group": entry.pw_gid, "extra_groups": []}


def run(command: Sequence[str], *, account: str | None = None, cwd: Path | None = None) -> str:
    """Run a set-up command to its end, as `account`; what it printed.

    Raises:
        ServerFailed: it exited with an error; the text holds the end of what it printed.
    """
    done = subprocess.run(  # noqa: S603 - our own commands
        command, stdin=subprocess.DEVNULL, capture_output=True, text=True, cwd=cwd, check=False, **_as_account(account)
    )
    said: str = done.stdout + done.stderr
    if done.returncode != 0:
        raise ServerFailed(f"{command[0]} exited with {done.returncode}:\n{said[-4000:]}")
    return said


def _runs(process: psutil.Process) -> bool:
    """Whether it can do anything now: it neither stands still nor has ended (its parent may stand still and not have noticed)."""
    try:
        return process.status() not in {psutil.STATUS_STOPPED, psutil.STATUS_ZOMBIE, psutil.STATUS_DEAD}
    except psutil.NoSuchProcess:
        return False


class Server(abc.ABC):
    """One running server with a database `holdfast`, an application's account and an administrator's.

    Attributes:
        flavour: `mariadb`, `mysql` or `postgresql`.
        host, port: where it listens; the port stays the same over restarts.
        database: the name of the database that `user` may do everything in.
        user, password: the account of an application.
        admin, admin_password: the account of an administrator, with every right.
        folder: everything of this server; removed by `close`.
        log: the file with what it printed.
        account: the unprivileged account that it runs as; None for the caller's own.
    """

    flavour: ClassVar[str]
    scheme: ClassVar[str]
    """The SQLAlchemy dialect in `url`."""
    stop_signal: ClassVar[signal.Signals] = signal.SIGTERM
    """Asks for an orderly stop that does not wait for clients to leave."""

    database = "holdfast"
    user = "app"
    password = "app-password"  # noqa: S105 - of a server that listens on loopback as long as a drill
    admin = "admin"
    admin_password = "admin-password"  # noqa: S105

    def __init__(self, folder: Path, account: str | None, host: str = HOST) -> None:
        self.folder = folder
        self.log = folder / "server.log"
        self.host = host
        self.port = free_port(host)
        self.account = account
        self._process: subprocess.Popen[bytes] | None = None
        self._paused: list[psutil.Process] = []

    def __repr__(self) -> str:
        return f"<{self.flavour} on {self.host}:{self.port}, pid {self._process.pid if self._process else None}>"

    # ---- what a flavour says about itself

    @abc.abstractmethod
    def _command(self) -> list[str]:
        """The command that runs the server in the foreground."""

    @abc.abstractmethod
    def connect(self, *, admin: bool = False, database: str | None = None) -> Any:
        """A DB-API connection in autocommit mode, as the application or the administrator (`admin`)."""

    @abc.abstractmethod
    def set_global(self, name: str, value: object) -> None:
        """Set a server-wide variable for connections made from now on, until the server restarts."""

    @abc.abstractmethod
    def get_global(self, name: str) -> object:
        """The value of a server-wide variable."""

    # ---- asking

    def url(self, driver: str, *, user: str | None = None, database: str | None = None) -> str:
        """The SQLAlchemy URL for `driver` (`pymysql`, `asyncmy`, `psycopg`, ...) as the application (or the admin)."""
        user = user or self.user
        password = self.admin_password if user == self.admin else self.password
        return f"{self.scheme}+{driver}://{user}:{password}@{self.host}:{self.port}/{database or self.database}"

    def admin_url(self, driver: str, *, database: str | None = None) -> str:
        """The SQLAlchemy URL for `driver` as the administrator."""
        return self.url(driver, user=self.admin, database=database)

    def execute(self, sql: str, parameters: Sequence[object] = (), *, database: str | None = None) -> list[Any]:
        """Run one statement as the administrator, committed at once; its rows, if it has any."""
        connection = self.connect(admin=True, database=database)
        try:
            with connection.cursor() as cursor:
                cursor.execute(sql, tuple(parameters) or None)
                return list(cursor.fetchall()) if cursor.description else []
        finally:
            connection.close()

    @contextmanager
    def global_setting(self, name: str, value: object) -> Iterator[None]:
        """`set_global` for the length of a block."""
        before = self.get_global(name)
        self.set_global(name, value)
        try:
            yield
        finally:
            self.set_global(name, before)

    # ---- the process

    @property
    def pid(self) -> int:
        """The process id of the running server."""
        if self._process is None:
            raise ServerFailed(f"{self!r} is not running")
        return self._process.pid

    @property
    def is_running(self) -> bool:
        """Whether the process is alive (also when paused)."""
        return self._process is not None and self._process.poll() is None

    def start(self) -> None:
        """Start it and wait until both accounts can log in; nothing when it runs already."""
        if self.is_running:
            return
        self.launch()
        self.wait_until_ready()

    def launch(self) -> None:
        """Start it without waiting until it answers."""
        _spawner.submit(self._spawn).result()

    def _spawn(self) -> None:
        with self.log.open("ab") as log:
            self._process = subprocess.Popen[bytes](
                [*END_WITH_PARENT, *self._command()],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                cwd=self.folder,
                start_new_session=True,  # Ctrl-C goes to the tests, which then stop the server in good order
                **_as_account(self.account),
            )

    def check_ready(self) -> None:
        """Raise whatever error keeps it from serving now: both accounts must be able to log in."""
        for admin in (True, False):
            self.connect(admin=admin).close()

    def wait_until_ready(self) -> None:
        """Wait until it serves.

        Raises:
            ServerFailed: it ended, or was not ready after 60 s (and is killed); the text ends with its log.
        """
        give_up_at = SYSTEM_CLOCK.monotonic() + READY_WITHIN_S
        while True:
            try:
                self.check_ready()
                return
            except Exception as error:
                if not self.is_running:
                    raise ServerFailed(f"{self.flavour} ended while starting:\n{self._log_tail()}") from error
                if SYSTEM_CLOCK.monotonic() > give_up_at:
                    self.kill()
                    raise ServerFailed(
                        f"{self.flavour} was not ready after {READY_WITHIN_S:g} s ({error}):\n{self._log_tail()}"
                    ) from error
            SYSTEM_CLOCK.sleep(0.05)

    def _log_tail(self) -> str:
        return self.log.read_text(errors="replace")[-4000:] if self.log.exists() else "(no log)"

    def stop(self) -> None:
        """Stop it in good order; with SIGKILL when it takes longer than 20 s."""
        if self._process is None:
            return
        self.resume()
        self._process.send_signal(self.stop_signal)
        try:
            self._process.wait(STOPPED_WITHIN_S)
        except subprocess.TimeoutExpired:
            self.kill()
        self._process = None

    def kill(self) -> None:
        """End it at once with SIGKILL, all its processes, as a crash would. `start` brings it back."""
        if self._process is None:
            return
        self._paused = []
        # PostgreSQL's backends are processes of their own: they die with it, and the data folder stays locked until they have.
        processes = self._tree()
        for process in processes:
            with suppress(psutil.NoSuchProcess):
                process.kill()
        self._process.wait(STOPPED_WITHIN_S)
        psutil.wait_procs(processes, timeout=STOPPED_WITHIN_S)
        self._process = None

    def restart(self) -> None:
        """Stop it in good order and start it again."""
        self.stop()
        self.start()

    def pause(self) -> None:
        """Freeze it (SIGSTOP): connections stay open and nothing answers, as with a hung machine."""
        self._paused = self._tree()[:1]
        self._suspend(self._paused)
        # Only now: a process that stands still starts no more.
        children = self._tree()[1:]
        self._paused += children
        self._suspend(children)
        # A signal reaches the threads one by one: return only when nothing runs any more.
        give_up_at = SYSTEM_CLOCK.monotonic() + STOPPED_WITHIN_S
        while any(_runs(process) for process in self._paused):
            if SYSTEM_CLOCK.monotonic() > give_up_at:
                raise ServerFailed(f"{self!r} would not pause")
            SYSTEM_CLOCK.sleep(0.002)

    @staticmethod
    def _suspend(processes: Sequence[psutil.Process]) -> None:
        for process in processes:
            with suppress(psutil.NoSuchProcess):
                process.suspend()

    def resume(self) -> None:
        """Let it go on after `pause`; harmless when it is not paused."""
        for process in reversed(self._paused):
            with suppress(psutil.NoSuchProcess):
                process.resume()
        self._paused = []

    def heal(self) -> None:
        """Bring it back to running, whatever a test did to it."""
        self.resume()
        if not self.is_running:
            self._process = None
            self.start()

    def bring_up(self, initialise: Callable[[Self], object]) -> Self:
        """Initialise a new server and start it; where that fails nothing of it is left."""
        try:
            initialise(self)
            self.start()
        except BaseException:
            self.close()
            raise
        return self

    def close(self) -> None:
        """Stop it and remove everything it left."""
        try:
            self.stop()
        finally:
            shutil.rmtree(self.folder, ignore_errors=True)

    def _tree(self) -> list[psutil.Process]:
        try:
            root = psutil.Process(self.pid)
            return [root, *root.children(recursive=True)]
        except psutil.NoSuchProcess:
            return []
