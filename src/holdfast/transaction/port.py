"""The port: what a shell acts on. One port is one operation's way to its database."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol, TypeVar

if TYPE_CHECKING:
    from ..operation import Record
    from ..outcome import Failure
    from .actions import Do, ProbeAnswer

__all__ = ["ROLLBACK_GRACE_S", "AsyncPort", "Port"]

T = TypeVar("T")

ROLLBACK_GRACE_S = 0.1
"""How long after the deadline a ROLLBACK may still take; then the connection is closed instead."""


class Port(Protocol[T]):
    """What the synchronous shell acts on: one operation's way to the database.

    Every method may raise anything; `classify` says what it means. A port keeps to the deadline it was made with: no
    call returns later than `expires_at` (`roll_back`: plus `ROLLBACK_GRACE_S`; `discard` takes no time worth counting).
    """

    @property
    def in_cluster(self) -> bool:
        """Whether other nodes take writes as well (Galera): an insert may go through while one is about to commit the key."""

    def begin(self) -> None:
        """Get a connection and open a transaction on it."""

    def claim(self, attempt: int, *, settling: bool) -> Record | None:
        """Insert the key row, waiting for whoever holds the key: the committed row if there is one, else None.

        With `settling` the row is a tombstone, and one that is found is returned; otherwise a tombstone is replaced.
        """

    def run(self) -> T:
        """Run the body and send everything it left unsent."""

    def store(self, result: T) -> None:
        """Write the result into the key row."""

    def commit(self, *, claiming: int | None = None) -> None:
        """Send COMMIT and wait for its answer; with `claiming` the key row of that attempt is inserted in the same request."""

    def roll_back(self) -> None:
        """Roll back and give the connection back."""

    def discard(self, *, kill: bool) -> None:
        """Close the connection instead of giving it back; with `kill`, have the server end its work as well."""

    def await_server(self) -> bool:
        """Wait until a server is there to go to: whether it was away since the attempt that failed began."""

    def probe(self) -> ProbeAnswer:
        """Ask the server what became of the transaction whose COMMIT was sent."""

    def stored_result(self, record: Record) -> T:
        """The result that the key row holds."""

    def classify(self, error: BaseException, doing: Do) -> Failure:
        """What `error` means, raised while `doing`."""


class AsyncPort(Protocol[T]):
    """What the asynchronous shell acts on; as `Port`, except that the shell itself cancels a call at the deadline."""

    @property
    def in_cluster(self) -> bool:
        """As in `Port`."""

    async def begin(self) -> None:
        """As in `Port`."""

    async def claim(self, attempt: int, *, settling: bool) -> Record | None:
        """As in `Port`."""

    async def run(self) -> T:
        """As in `Port`."""

    async def store(self, result: T) -> None:
        """As in `Port`."""

    async def commit(self, *, claiming: int | None = None) -> None:
        """As in `Port`."""

    async def roll_back(self) -> None:
        """As in `Port`."""

    async def discard(self, *, kill: bool) -> None:
        """As in `Port`; everything that matters happens before the first suspension."""

    async def await_server(self) -> bool:
        """As in `Port`."""

    async def probe(self) -> ProbeAnswer:
        """As in `Port`."""

    def stored_result(self, record: Record) -> T:
        """As in `Port`."""

    def classify(self, error: BaseException, doing: Do) -> Failure:
        """As in `Port`."""
