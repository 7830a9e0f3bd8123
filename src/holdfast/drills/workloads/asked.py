"""`app` and `http`: saves asked of somebody else's code, by a key; that code knows its tables, the drill does not.

Each key is asked for several times, by every client process and again a moment later, as clients do that got no answer.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from .replay import digest
from .workload import Call, Identity, Workload, whole

if TYPE_CHECKING:
    from ...clock import Random

__all__ = ["AppSaves", "HttpPosts"]

_CALLS_PER_KEY = 2
_LOOK_BACK = 8
_AGAIN = 0.2
_ACCOUNTS = 8
_AMOUNT_MAX_CENTS = 500


class AppSaves(Workload):
    """Saves through the user's own function."""

    name = "app"
    final_name = "keyed"
    keyed = True

    def next(self, random: Random, identity: Identity) -> Call:
        """The save that is due, or one of a moment ago."""
        number = _number(random, identity)
        key = f"{identity.drill}-{number}"
        return Call("keyed", {"id": key, "tenant": "", "key_hash": digest(key)}, key)


class HttpPosts(Workload):
    """Transfers posted to a ledger with an `Idempotency-Key`."""

    name = "http"
    final_name = "http"
    keyed = True

    def next(self, random: Random, identity: Identity) -> Call:
        """The transfer that is due, or one of a moment ago; what it says follows from its number alone."""
        number = _number(random, identity)
        key = f"{identity.drill}-{number}"
        # The same key has to come with the same payload from every client, so chance has no part in it.
        seed = int(digest(f"payload of {number}"), 16)
        source = seed % _ACCOUNTS
        target = (source + 1 + seed // _ACCOUNTS % (_ACCOUNTS - 1)) % _ACCOUNTS
        cents = 1 + seed // 1024 % _AMOUNT_MAX_CENTS
        payload = {"from": source, "to": target, "amount": f"{cents / 100:.2f}", "reference": key}
        return Call("post", {"id": key, "tenant": "", "key_hash": digest(key), "payload": payload}, key)


def _number(random: Random, identity: Identity) -> int:
    number = identity.index // _CALLS_PER_KEY
    return max(0, number - whole(random, 1, _LOOK_BACK)) if random() < _AGAIN else number
