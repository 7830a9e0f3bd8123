"""What the tests of `install` put around an application: who believes names, a store of answers, a handler without work."""

from __future__ import annotations

from typing import Any

from holdfast.asgi.answers import Answer, StoredAnswer
from holdfast.asgi.authentication import Principal
from holdfast.asgi.idempotency import KeyedRun
from holdfast.asgi.interface import Scope
from holdfast.asgi.keyed_request import KeyIdentity

__all__ = ["Kept", "Names", "nothing"]


class Names:
    """Believes whoever names itself; `root` may transfer."""

    challenge = "Bearer"

    async def authenticate(self, scope: Scope, /) -> Principal | None:
        """The principal of the header `x-name`."""
        name = next((value.decode() for known, value in scope["headers"] if known == b"x-name"), None)
        permissions = frozenset({"transfers:write"}) if name == "root" else frozenset[str]()
        return None if name is None else Principal(name, "here", "t", permissions)


class Kept:
    """Keeps answers in a map, which is enough to see that they are asked for."""

    def __init__(self) -> None:
        self.rows: dict[Any, StoredAnswer] = {}

    async def answer(self, identity: KeyIdentity, run: KeyedRun) -> Answer | StoredAnswer:
        """The kept answer, or a fresh one."""
        if identity in self.rows:
            return self.rows[identity]
        answer = await run()
        if answer.status < 400:
            self.rows[identity] = run.to_keep(answer)
        return answer

    async def live_keys(self, scope: str, most: int) -> int:
        """None that count."""
        return 0


async def nothing() -> None:
    """A handler."""
