"""Fixtures for pytest: `pytest_plugins = ["holdfast.testing.fixtures"]` in `conftest.py`."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack
from typing import Protocol

import pytest

from ..faultproxy.journal import OnEvent
from ..faultproxy.proxy import Wire
from . import proxies

__all__ = ["StartFaultProxy", "fault_proxy"]


class StartFaultProxy(Protocol):
    """What the fixture `fault_proxy` is."""

    def __call__(
        self, url: str, *, protocol: Wire | None = None, seed: int = 0, on_event: OnEvent | None = None
    ) -> proxies.DatabaseProxy:
        """As `holdfast.testing.fault_proxy`, started; it is closed after the test."""


@pytest.fixture
def fault_proxy() -> Iterator[StartFaultProxy]:
    """What starts fault proxies for one test: `fault_proxy(url)`, as often as needed; they are closed after it."""
    with ExitStack() as stack:

        def start(
            url: str, *, protocol: Wire | None = None, seed: int = 0, on_event: OnEvent | None = None
        ) -> proxies.DatabaseProxy:
            proxy = proxies.fault_proxy(url, protocol=protocol, seed=seed, on_event=on_event)
            return stack.enter_context(proxy)

        yield start
