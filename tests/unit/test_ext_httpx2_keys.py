"""Which `Idempotency-Key` counts as one."""

from __future__ import annotations

import httpx2
import pytest

from holdfast.testing import ManualClock
from tests.unit.outgoing_calls import Sender, Service


@pytest.fixture(params=[False, True], ids=["sync", "async"])
def sender(request: pytest.FixtureRequest) -> Sender:
    """Sends through either transport."""
    return Sender(request.param, ManualClock())


@pytest.mark.parametrize("empty", ["", "  ", '""'])
def test_an_empty_key_is_none(sender: Sender, empty: str) -> None:
    """It is not sent, makes nothing harmless to repeat, and is replaced for methods that were named."""
    headers = {"Idempotency-Key": empty}
    service = Service(httpx2.ReadTimeout("x"))
    with pytest.raises(httpx2.ReadTimeout):
        sender.send(service, "POST", headers=headers)
    keyed = Service(httpx2.ReadTimeout("x"), 201)
    sender.send(keyed, "POST", headers=headers, rules={"keyed": ("POST",)})
    assert (service.keys, keyed.keys) == ([None], ['"a"', '"a"'])
