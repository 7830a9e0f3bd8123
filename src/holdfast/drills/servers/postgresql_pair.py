"""Two PostgreSQL servers: a primary that takes writes, and a standby that follows it and can take its place.

    pair = postgresql_pair.start()
    pair.primary.kill(); pair.promote()     # the standby takes writes, on the connections that it has
    pair.heal()                             # the old primary is back as its standby
    pair.switch()                           # the same in good order, as for maintenance
    pair.close()

COMMIT waits for the standby by default, so that nothing acknowledged is lost with the primary. A primary whose standby is away
then waits for it, unless it is told otherwise.
"""

from __future__ import annotations

import shutil

from ...clock import SYSTEM_CLOCK
from ...errors import UsageError
from . import postgresql
from .postgresql import PostgreSQL, program
from .process import ServerFailed, account_or_caller, run, temporary_folder

__all__ = ["PairNode", "PostgreSQLPair", "start", "version"]

STREAMING_WITHIN_S = 60.0

version = postgresql.version


class PairNode(PostgreSQL):
    """One of the two.

    Attributes:
        name: `n1` or `n2`.
        follows: the server whose standby it is; None for a primary.
    """

    def __init__(self, number: int, account: str | None, *, synchronous: bool) -> None:
        super().__init__(temporary_folder("postgresql", account), account, f"127.0.0.{number}")
        self.name = f"n{number}"
        self.follows: PairNode | None = None
        self._synchronous = synchronous

    @property
    def is_primary(self) -> bool:
        """Whether it answers and takes writes."""
        try:
            return self.is_running and not self._paused and self.execute("SELECT pg_is_in_recovery()") == [(False,)]
        except Exception:  # whatever keeps it from answering
            return False

    def wait_for_standby(self, wait: bool) -> None:
        """Whether COMMIT waits until the standby has it, from now on."""
        self.set_global("synchronous_standby_names", "*" if wait and self._synchronous else "")

    def follow(self, primary: PairNode) -> None:
        """Throw its data away, begin as a copy of `primary` and follow it from there.

        Raises:
            UsageError: it is running.
        """
        if self.is_running:
            raise UsageError(f"{self.name} is running, and its data would be thrown away under it")
        data = self.folder / "data"
        shutil.rmtree(data, ignore_errors=True)
        # The copy must not wait for a standby, since it will be the only one.
        copy = [program("pg_basebackup"), "-D", str(data), "-X", "stream", "-c", "fast", "-d", self._way_to(primary)]
        run(copy, account=self.account, cwd=self.folder)
        self.begin_to_follow(primary)

    def begin_to_follow(self, primary: PairNode) -> None:
        """Follow `primary` from where its own data ends, and wait until it answers; it must not be running."""
        self.follows = primary
        (self.folder / "data" / "standby.signal").touch()
        self.start()

    def take_over(self) -> None:
        """Take writes from now on; returns when it does."""
        self.execute("SELECT pg_promote(true, 60)")
        self.follows = None

    def _write_settings(self, text: str) -> None:
        if self.follows is not None:
            text += f"primary_conninfo = '{self._way_to(self.follows)}'\n"
        super()._write_settings(text)

    def _way_to(self, other: PairNode) -> str:
        return (
            f"host={other.host} port={other.port} user={other.admin} password={other.admin_password} "
            f"application_name={self.name}"
        )

    def _command(self) -> list[str]:
        return [*super()._command(), "-c", "wal_keep_size=64MB", "-c", "wal_receiver_timeout=5s"]


class PostgreSQLPair:
    """A primary and its standby. To be used from one thread at a time; the nodes' `url` and `execute` from any.

    Attributes:
        nodes: both, always in the same order.
    """

    def __init__(self, first: PairNode, second: PairNode) -> None:
        self.nodes = (first, second)
        self._primary = first

    def __repr__(self) -> str:
        return f"<PostgreSQLPair of {self.primary!r} and {self.standby!r}>"

    @property
    def primary(self) -> PairNode:
        """The one that takes writes, or did before it was killed."""
        return self._primary

    @property
    def standby(self) -> PairNode:
        """The other one."""
        first, second = self.nodes
        return second if self._primary is first else first

    def urls(self, driver: str) -> list[str]:
        """The SQLAlchemy URL of each node, as the application."""
        return [node.url(driver) for node in self.nodes]

    def wait_until_streaming(self, timeout_s: float = STREAMING_WITHIN_S) -> None:
        """Wait until the standby follows the primary.

        Raises:
            ServerFailed: not within `timeout_s`.
        """
        give_up_at = SYSTEM_CLOCK.monotonic() + timeout_s
        sql = "SELECT COUNT(*) FROM pg_stat_replication WHERE state = 'streaming' AND application_name = %s"
        while self.primary.execute(sql, [self.standby.name]) != [(1,)]:
            if SYSTEM_CLOCK.monotonic() > give_up_at:
                raise ServerFailed(f"{self.standby!r} does not follow {self.primary!r} after {timeout_s:g} s")
            SYSTEM_CLOCK.sleep(0.05)

    def promote(self) -> None:
        """Make the standby the primary, after the primary has been killed, or killing it: two would each take writes."""
        self.primary.kill()
        self.standby.take_over()
        self._primary = self.standby
        self._primary.wait_for_standby(False)

    def switch(self) -> None:
        """Change places in good order: the primary stops, the standby takes over, the old primary follows it."""
        old, new = self.primary, self.standby
        old.wait_for_standby(False)  # which would keep it from stopping when its standby is slow
        old.stop()
        new.take_over()
        self._primary = new
        old.begin_to_follow(new)
        self.wait_until_streaming()
        new.wait_for_standby(True)

    def heal(self) -> None:
        """Bring both back to running, one following the other, whatever was done to them; nothing when they are.

        Raises:
            ServerFailed: a server would not start, or not follow.
        """
        for node in self.nodes:
            node.resume()
        self.primary.heal()
        follows = self.standby.follows is self.primary
        if not (follows and self.standby.is_running):
            self.primary.wait_for_standby(False)
        if follows:
            self.standby.heal()
        else:  # it was the primary, and may hold what the new one never heard of
            self.standby.kill()
            self.standby.follow(self.primary)
        self.wait_until_streaming()
        self.primary.wait_for_standby(True)

    def close(self) -> None:
        """End both and remove everything they left."""
        for node in self.nodes:
            node.kill()
            node.close()


def start(*, synchronous: bool = True) -> PostgreSQLPair:
    """A new, empty, running pair, the standby following.

    Args:
        synchronous: whether COMMIT waits until the standby has written it down.

    Raises:
        ServerMissing: PostgreSQL is not installed.
        ServerFailed: a server did not start; the text ends with its log.
    """
    program("initdb")
    account = account_or_caller("postgres")
    pair = PostgreSQLPair(*(PairNode(number, account, synchronous=synchronous) for number in (1, 2)))
    try:
        postgresql.initialise(pair.primary)
        # Who may log in is written for 127.0.0.1; the standby has an address of its own.
        access = pair.primary.folder / "data" / "pg_hba.conf"
        access.write_text(access.read_text().replace("127.0.0.1/32", "127.0.0.0/8"))
        pair.heal()
    except BaseException:
        pair.close()
        raise
    return pair
