"""The settings of a database: names, units, defaults and bounds, checked once."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from datetime import timedelta
from typing import TYPE_CHECKING, Literal

from ...bounds import flag, instance_of, one_of
from ...deadline import seconds
from ...decision import RetryPolicy
from ...errors import ConfigurationError
from ...failover import FailoverSettings
from .isolation import check_isolation
from .pushdown import DEADLINE_MAX_S
from .settings import PoolSettings, SessionSettings

if TYPE_CHECKING:
    from .options import OperationOptions

__all__ = ["DatabaseSettings"]


@dataclass(frozen=True, slots=True, kw_only=True)
class DatabaseSettings:
    """How a `Database` or `AsyncDatabase` behaves unless an operation says otherwise.

    Attributes:
        deadline: for a whole operation, all attempts and waits included; seconds or `timedelta`, default 10 s, above 0, at
            most a day. Galera stalls its survivors for about 6 s when it loses a node: below 7 s a failover costs errors.
        isolation: `snapshot` (default), `serializable` or `read committed`. `snapshot` loses no update: whoever writes a row
            that changed since it was read is rerun. MySQL has no such level; there it is REPEATABLE READ, which overwrites,
            so use `serializable`, `db.lock` or a version column for read-modify-write.
        protect: find out an ambiguous commit also where the caller gave no key (default True): by a key row of its own, on
            PostgreSQL by the server's record of transactions.
        key_ttl: seconds (or `timedelta`; a plain 72 is 72 seconds) that a keyed operation's result is kept; default
            `timedelta(hours=72)`, a weekend; at least 1 s.
        automatic_key_ttl: the same for the keys that Holdfast makes; default `timedelta(hours=1)`, at least 1 s.
        pool: the connection pool.
        policy: which failures are retried, how often and at what pace.
        failover: how a lost server is found again, and who waits meanwhile.
        limit: how many attempts may be under way at once, following what the server bears and at most `pool.open_max`: `off`
            (default), `dark` (events tell who would have been refused, nobody is) or `on`: further operations are refused at
            once with `LoadShed`, after a short wait in a queue of `pool.size`. It falls when the server is too slow for
            `deadline`: what runs out of less time than half of that (or of the operation's own), because its caller gave it
            no more, says nothing.

    Raises:
        ConfigurationError: a value is out of its bounds.
    """

    deadline: float | timedelta = 10.0
    isolation: str = "snapshot"
    protect: bool = True
    key_ttl: float | timedelta = timedelta(hours=72)
    automatic_key_ttl: float | timedelta = timedelta(hours=1)
    pool: PoolSettings = field(default_factory=PoolSettings)
    policy: RetryPolicy = field(default_factory=RetryPolicy)
    failover: FailoverSettings = field(default_factory=FailoverSettings)
    limit: Literal["off", "dark", "on"] = "off"

    def __post_init__(self) -> None:
        _check_deadline(self.deadline)
        object.__setattr__(self, "isolation", check_isolation(self.isolation))
        flag(self.protect, "protect")
        instance_of(self.pool, PoolSettings, "pool")
        instance_of(self.policy, RetryPolicy, "policy")
        instance_of(self.failover, FailoverSettings, "failover")
        one_of(self.limit, "limit", ("off", "dark", "on"))
        for name in ("key_ttl", "automatic_key_ttl"):
            if seconds(getattr(self, name), name=name) < 1:
                raise ConfigurationError(
                    f"{name} must be at least 1 s, or a key could expire while it is needed; a number is in seconds, and "
                    "timedelta(hours=72) says hours"
                )

    @property
    def deadline_s(self) -> float:
        """The default deadline in seconds."""
        return seconds(self.deadline)

    @property
    def session(self) -> SessionSettings:
        """What every connection is set up with."""
        return SessionSettings(isolation=self.isolation, deadline=self.deadline)

    def checked(self, options: OperationOptions) -> OperationOptions:
        """`options` with the isolation level in its canonical form, and None where it is the default anyway.

        Raises:
            ConfigurationError: an option is out of its bounds.
        """
        if options.deadline_s is not None:
            _check_deadline(options.deadline_s)
        if options.protect is not None:
            flag(options.protect, "protect")
        if options.isolation is None:
            return options
        isolation = check_isolation(options.isolation)
        return replace(options, isolation=None if isolation == self.isolation else isolation)


def _check_deadline(deadline: float | timedelta) -> None:
    if not 0 < seconds(deadline, name="deadline") <= DEADLINE_MAX_S:
        raise ConfigurationError(f"deadline must be above 0 and at most {DEADLINE_MAX_S:g} s, not {deadline}")
