"""Holdfast for httpx2: calls to other services that are tried again where that is safe, and end in time.

from holdfast.ext.httpx2 import CallRules, async_client

payments = async_client(base_url="https://payments.example", rules=CallRules(keyed=("POST",)))
answer = await payments.post("/charges", json={"amount": 7})
"""

from __future__ import annotations

from importlib.util import find_spec

from ...errors import MissingExtra

if find_spec("httpx2") is None:
    raise MissingExtra("holdfast.ext.httpx2 needs httpx2: pip install 'holdfast[httpx2]'")

from .async_transport import AsyncRetryTransport
from .call import REPORT_EXTENSION
from .client import LIMITS, TIMEOUT, HideQueries, async_client, client
from .failures import failure_of_answer, failure_of_error, parse_retry_after
from .outgoing import IDEMPOTENT_EXTENSION
from .rules import OUTGOING, CallRules
from .transport import RetryTransport

__all__ = [
    "IDEMPOTENT_EXTENSION",
    "LIMITS",
    "OUTGOING",
    "REPORT_EXTENSION",
    "TIMEOUT",
    "AsyncRetryTransport",
    "CallRules",
    "HideQueries",
    "RetryTransport",
    "async_client",
    "client",
    "failure_of_answer",
    "failure_of_error",
    "parse_retry_after",
]
