"""What schemathesis cannot know of the ledger: which values are new, and which rows are there."""

from __future__ import annotations

import os
from typing import Any

import schemathesis

from holdfast.clock import new_token

__all__ = ["PLANTED"]

PLANTED = "LEDGER_FUZZ_PLANTED"
"""In the environment: the document promises what the service does not take."""

_TIMEOUT = "X-Request-Timeout-Ms"
_KEY = "Idempotency-Key"


@schemathesis.hook
def before_load_schema(_context: schemathesis.HookContext, raw_schema: dict[str, Any]) -> None:
    """Let it give every request its time: one that has none is answered 504, as it should be."""
    for path in raw_schema["paths"].values():
        for operation in path.values():
            operation["parameters"] = [one for one in operation.get("parameters", ()) if one["name"] != _TIMEOUT]
    if PLANTED in os.environ:
        raw_schema["components"]["schemas"]["NewUser"]["properties"]["age"]["maximum"] = 1000


@schemathesis.hook
def before_call(_context: schemathesis.HookContext, case: schemathesis.Case[Any], _kwargs: dict[str, Any]) -> None:
    """Make a request that should be accepted one that can be: by a key that nobody has used, between accounts that exist."""
    if case.meta is None or case.meta.generation.mode.is_negative:
        return
    if _KEY in case.headers:
        case.headers[_KEY] = new_token()
    body = case.body
    if case.path == "/api/v1/transfers" and isinstance(body, dict):
        # That they differ is a rule between two fields, which JSON Schema cannot say.
        body["source_id"], body["target_id"] = 1, 2
    if case.path == "/api/v1/accounts" and isinstance(body, dict):
        body["owner_id"] = 1
