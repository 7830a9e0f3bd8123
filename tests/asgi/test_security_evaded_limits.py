"""Risk: a limit is evaded by calling oneself something else, every time (forged headers, addresses of one network, spellings)."""

from __future__ import annotations

import pytest

from holdfast.asgi.admission import ConcurrencyLimit
from holdfast.asgi.client_address import ClientAddress
from holdfast.asgi.quotas import Quota
from holdfast.asgi.rate_limit import RateLimit
from holdfast.asgi.stack import Stack
from holdfast.asgi.subjects import by_client, by_route
from holdfast.testing import ManualClock
from tests.asgi.asgi_calls import answering, call

PROXY, CLIENT = "198.51.100.1", "192.0.2.7"


def limited() -> RateLimit:
    """Five at once, and no time passes."""
    return RateLimit(answering(), quotas=[Quota("client", rate=1, burst=5)], clock=ManualClock())


@pytest.mark.parametrize("proxies_known", [False, True])
async def test_rotated_forwarded_addresses_do_not_reset_a_limiter(proxies_known: bool) -> None:
    """200 forged addresses, 200 times the same client: without a layer for proxies, and with one that does not trust the peer."""
    app = ClientAddress(limited(), trusted=[PROXY]) if proxies_known else limited()
    statuses = []
    for number in range(200):
        forged = f"203.0.113.{number}"
        headers = {
            "X-Forwarded-For": forged,
            "Forwarded": f"for={forged}",
            "X-Real-IP": forged,
            "CF-Connecting-IP": forged,
            "True-Client-IP": forged,
        }
        statuses.append((await call(app, headers=headers, client=(CLIENT, 1))).status)
    assert statuses == [200] * 5 + [429] * 195


async def test_rotated_addresses_in_front_of_a_trusted_proxy_do_not_reset_a_limiter() -> None:
    """The proxy appends the true address, and what the client wrote in front of it counts for nothing; other clients are free."""
    app = ClientAddress(limited(), trusted=[PROXY])

    async def through_proxy(forged: str, true: str) -> int:
        return (await call(app, headers={"X-Forwarded-For": f"{forged}, {true}"}, client=(PROXY, 1))).status

    statuses = [await through_proxy(f"203.0.113.{number}", CLIENT) for number in range(200)]
    assert statuses == [200] * 5 + [429] * 195
    assert await through_proxy("203.0.113.1", "192.0.2.8") == 200


async def test_unreadable_forwarded_addresses_share_one_limit() -> None:
    """Garbage that changes every time does not make a client new: whoever a proxy does not name is counted as the proxy."""
    app = ClientAddress(limited(), trusted=[PROXY])
    headers = [{"X-Forwarded-For": f"nobody-{number}"} for number in range(50)]
    statuses = [(await call(app, headers=each, client=(PROXY, 1))).status for each in headers]
    assert statuses.count(200) == 5


async def test_ipv6_addresses_of_one_network_are_one_client() -> None:
    """Who owns a /64 cannot rotate through it."""
    app = limited()
    statuses = [(await call(app, client=(f"2001:db8::{number:x}", 1))).status for number in range(50)]
    assert statuses.count(200) == 5


async def test_other_spellings_of_a_limited_path_are_no_way_around() -> None:
    """Letter case, doubled and trailing slashes and dots count as the path they may mean."""
    quota = Quota("login", rate=1, per=60, burst=1, subject=by_route("/login", each=by_client))
    app = RateLimit(answering(), quotas=[quota], clock=ManualClock())
    paths = ["/login", "/Login", "/login/", "//login", "/./login", "/x/../login"]
    statuses = [(await call(app, path=path)).status for path in paths]
    assert statuses == [200] + [429] * 5


async def test_names_of_tenants_and_classes_in_headers_are_not_looked_at() -> None:
    """Another one every time, and still the same client."""
    app = Stack(limited(), ConcurrencyLimit)
    headers = {"X-Tenant": "other", "X-Priority": "critical", "Priority": "u=0"}
    statuses = [(await call(app, headers={**headers, "X-Tenant": str(number)})).status for number in range(20)]
    assert statuses.count(200) == 5
