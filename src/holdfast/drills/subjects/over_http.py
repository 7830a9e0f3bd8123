"""A ledger behind an HTTP address: transfers posted with an `Idempotency-Key`, and posted again while there is no answer.

The interface is that of the reference service (`/api/v1/users`, `/accounts`, `/transfers`), whose errors are problem documents
that say in `outcome` whether anything was applied.
"""

from __future__ import annotations

import asyncio
import hashlib
from collections import Counter
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import httpx2

from ...backoff import Backoff
from ...clock import SYSTEM_CLOCK, new_token, system_random
from ...errors import ConfigurationError
from ...outcome import Failure, FailureClass, Stage
from ..history import Answer
from .subject import Remote, Reply, time_left_s

if TYPE_CHECKING:
    from ..workloads import Call
    from .subject import Terms

__all__ = ["OverHttp"]

_ACCOUNTS = 8
_OPENING = "1000000.00"
_ASK_AGAIN = frozenset({409, 429, 500, 502, 503, 504})
_PAGE = 100


class OverHttp(Remote):
    """A ledger at `address`, such as `http://127.0.0.1:8000`."""

    name = "http"
    keyed = True

    def __init__(self, address: str, terms: Terms) -> None:
        limits = httpx2.Limits(max_connections=None, max_keepalive_connections=4 * terms.connections)
        self._deadline_s = terms.deadline_s
        self._client = httpx2.AsyncClient(base_url=address, timeout=terms.deadline_s, limits=limits, trust_env=False)
        self._accounts: list[int] = []

    async def set_up(self) -> dict[str, Any]:
        """Open the accounts that money moves between."""
        tag = new_token()[:12]
        owner = await self._created("/api/v1/users", {"username": f"drill-{tag}", "name": "Drill", "age": 100})
        account = {"owner_id": owner, "currency": "EUR", "opening_balance": _OPENING}
        return {"accounts": [await self._created("/api/v1/accounts", account) for _ in range(_ACCOUNTS)]}

    def begin(self, known: Mapping[str, Any]) -> None:
        """Learn which accounts there are."""
        self._accounts = list(known["accounts"])

    async def perform(self, call: Call) -> Reply:
        """Post, and post again under the same key until there is an answer or no time left."""
        payload = call.v["payload"]
        body = {
            "source_id": self._accounts[payload["from"]],
            "target_id": self._accounts[payload["to"]],
            "amount": payload["amount"],
            "reference": payload["reference"],
        }
        exchange = _Exchange()
        try:
            async with asyncio.timeout(time_left_s(self._deadline_s)):
                while True:
                    exchange.attempts += 1
                    await self._post(body, call.key, exchange)
                    if exchange.is_settled:
                        break
                    await SYSTEM_CLOCK.sleep_async(_PAUSE.delay_s(exchange.attempts, system_random()))
        except TimeoutError:
            pass
        return exchange.reply()

    async def _post(self, body: Mapping[str, Any], key: str, exchange: _Exchange) -> None:
        exchange.in_flight = True
        try:
            response = await self._client.post("/api/v1/transfers", json=body, headers={"Idempotency-Key": key})
        except httpx2.ConnectError as error:
            exchange.unanswered(error, sent=False)
        except httpx2.TransportError as error:
            exchange.unanswered(error, sent=True)
        else:
            exchange.answered(response)

    async def final(self) -> dict[str, Any]:
        """How often each reference is in the accounts' histories, and the balances."""
        effects: Counter[str] = Counter()
        balances: dict[str, str] = {}
        for account in self._accounts:
            balances[str(account)] = (await self._got(f"/api/v1/accounts/{account}"))["balance"]
            following: str | None = f"/api/v1/accounts/{account}/history?limit={_PAGE}"
            while following is not None:
                page = await self._got(following)
                # A transfer has an entry on each side; the one that takes money away is counted.
                effects.update(entry["reference"] for entry in page["items"] if str(entry["amount"]).startswith("-"))
                following = page["next"]
        return {"effects": dict(effects), "balances": balances}

    async def close(self) -> None:
        """Close the client's connections."""
        await self._client.aclose()

    async def _created(self, path: str, body: Mapping[str, Any]) -> int:
        return int((await self._asked("POST", path, json=body))["id"])

    async def _got(self, path: str) -> Any:
        return await self._asked("GET", path)

    async def _asked(self, method: str, path: str, **given: Any) -> Any:
        """The answer to a request before or after the drill.

        Raises:
            ConfigurationError: nobody answers, or not as a service that can be drilled does.
        """
        where = f"{method} {self._client.base_url.join(path).copy_with(userinfo=b'')}"
        try:
            response = await self._client.request(method, path, **given)
        except httpx2.TransportError as error:
            raise ConfigurationError(
                f"nobody answers {where} ({type(error).__name__}); does the service run?"
            ) from error
        if not response.is_success:
            raise ConfigurationError(
                f"{where} was answered with {response.status_code}: a service that is drilled needs the addresses that "
                'docs/drills.md lists under "A service of yours"'
            )
        return response.json()


_PAUSE = Backoff(base=0.05, cap=1.0)


class _Exchange:
    """What a client learns about one transfer, over all its posts."""

    def __init__(self) -> None:
        self.attempts = 0
        self.is_settled = False
        self.in_flight = False
        self._doubted = False
        self._answer = Answer.FAIL
        self._value: dict[str, Any] | None = None
        self._error: str | None = None
        self._failure: Failure | None = None

    def unanswered(self, error: Exception, *, sent: bool) -> None:
        self.in_flight = False
        self._doubted |= sent
        failure_class = FailureClass.AMBIGUOUS if sent else FailureClass.UNSENT
        self._failure = Failure(failure_class, Stage.COMMIT if sent else Stage.CONNECT, name=type(error).__name__)
        self._error = type(error).__name__

    def answered(self, response: httpx2.Response) -> None:
        self.in_flight = False
        self._value = {
            "status": response.status_code,
            "body_hash": hashlib.sha256(response.content).hexdigest()[:16],
        }
        if response.is_success:
            self._answer, self._error, self.is_settled = Answer.OK, None, True
            return
        self._error = f"HTTP {response.status_code}"
        self._doubted |= _says_unknown(response)
        self.is_settled = response.status_code not in _ASK_AGAIN

    def reply(self) -> Reply:
        answer = self._answer
        if answer is Answer.FAIL and (self._doubted or self.in_flight):
            answer = Answer.INFO
        error = "TimeoutError" if self.in_flight else self._error
        return Reply(answer, self._value, self.attempts, self._failure, error)


def _says_unknown(response: httpx2.Response) -> bool:
    """Whether an error leaves open what became of the transfer: one that does not say so, and is the server's, does."""
    try:
        outcome = response.json().get("outcome")
    except (ValueError, AttributeError):
        outcome = None
    return outcome == "unknown" or (outcome is None and response.status_code >= 500)
