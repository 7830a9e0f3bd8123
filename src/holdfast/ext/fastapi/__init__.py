"""The edge around a FastAPI application by one call.

from holdfast.ext.fastapi import EdgeSettings, edge, install

install(app, db, EdgeSettings.load(), authenticator=tokens, idempotency=SqlIdempotency(db))

@app.post("/transfers", **edge(key="required", permission="transfers:write", deadline=3))
"""

from __future__ import annotations

from importlib.metadata import version
from importlib.util import find_spec

from ...errors import MissingExtra

_MISSING = [name for name in ("fastapi", "pydantic_settings") if find_spec(name) is None]
if _MISSING:
    raise MissingExtra(f"holdfast.ext.fastapi needs {', '.join(_MISSING)}: pip install 'holdfast[fastapi]'")
# Before 0.138 it cannot be asked for the routes of included routers, which `edge(...)` holds for.
if tuple(map(int, version("fastapi").split(".")[:2])) < (0, 138):
    raise MissingExtra("holdfast.ext.fastapi needs FastAPI 0.138 or newer: pip install 'holdfast[fastapi]'")

from .install import Closable, Edge, install  # noqa: E402 - after the check above
from .options import current_principal, edge, require  # noqa: E402
from .settings import EdgeSettings  # noqa: E402

__all__ = ["Closable", "Edge", "EdgeSettings", "current_principal", "edge", "install", "require"]
