"""How many keys of a tenant may be alive: an exact count now and then, and what was added since.

Counting a million rows for every request would cost more than the request. So a tenant's keys are counted when it is first
seen, again when half of what was left may be used up, and every five minutes; in between this process adds its own. Several
processes can overshoot by what each of them takes between two counts, which shrinks as the limit comes near. Reads no clock.
"""

from __future__ import annotations

from collections import OrderedDict

from ..errors import ConfigurationError

__all__ = ["KeyQuota"]

_RECOUNT_S = 300.0
_RECOUNT_WHEN_FULL_S = 1.0
"""Who is at the limit comes again and again; that must not become a count for each time."""


class _Tenant:
    __slots__ = ("counted", "counted_at", "taken")

    def __init__(self, counted: int, counted_at: float) -> None:
        self.counted = counted
        self.counted_at = counted_at
        self.taken = 0


class KeyQuota:
    """The quota of every tenant. One for a store; for one event loop.

    Args:
        most: live keys a tenant may have, default 1,000,000: 3.8 keyed requests a second, day and night, where a key lives
            three days; 1 or more.
        tenants_max: tenants remembered, default 10,000; who is forgotten is counted again.

    Raises:
        ConfigurationError: a value is outside its bounds.
    """

    __slots__ = ("_tenants", "_tenants_max", "most")

    def __init__(self, most: int = 1_000_000, *, tenants_max: int = 10_000) -> None:
        if most < 1 or tenants_max < 1:
            raise ConfigurationError("a quota must allow at least one key, and remember at least one tenant")
        self.most = most
        self._tenants_max = tenants_max
        self._tenants: OrderedDict[str, _Tenant] = OrderedDict()

    def is_due(self, scope: str, now: float) -> bool:
        """Whether the tenant's keys should be counted before the next one is taken. Says so to one caller only: the others go
        on with what is known.

        Args:
            scope: the tenant's, as in `KeyIdentity`.
            now: monotonic seconds.
        """
        tenant = self._tenants.get(scope)
        if tenant is None:
            self.counted(scope, 0, now)
            return True
        age_s = now - tenant.counted_at
        left = self.most - tenant.counted
        due = age_s >= _RECOUNT_S or (tenant.taken * 2 >= left and age_s >= _RECOUNT_WHEN_FULL_S)
        if due:
            tenant.counted_at = now
        return due

    def counted(self, scope: str, live: int, now: float) -> None:
        """The tenant has `live` keys."""
        self._tenants[scope] = _Tenant(live, now)
        self._tenants.move_to_end(scope)
        while len(self._tenants) > self._tenants_max:
            self._tenants.popitem(last=False)

    def forget(self, scope: str) -> None:
        """The tenant could not be counted; the next one tries again."""
        self._tenants.pop(scope, None)

    def take(self, scope: str) -> bool:
        """Count one more key; whether there was room for it. A tenant that was never counted has room."""
        tenant = self._tenants.get(scope)
        if tenant is None:
            return True
        if tenant.counted + tenant.taken >= self.most:
            return False
        tenant.taken += 1
        return True

    def give_back(self, scope: str) -> None:
        """The key was not used after all."""
        tenant = self._tenants.get(scope)
        if tenant is not None and tenant.taken:
            tenant.taken -= 1
