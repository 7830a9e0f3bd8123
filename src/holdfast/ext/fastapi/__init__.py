"""The edge around a FastAPI application by one call.

from holdfast.ext.fastapi import EdgeSettings, edge, install

install(app, db, EdgeSettings.load(), authenticator=tokens, idempotency=SqlIdempotency(db))

@app.post("/transfers", **edge(key="required", permission="transfers:write"))
"""

from __future__ import annotations

from importlib.util import find_spec

from ...errors import MissingExtra

_MISSING = [name for name in ("fastapi", "pydantic_settings") if find_spec(name) is None]
if _MISSING:
    raise MissingExtra(f"holdfast.ext.fastapi needs {', '.join(_MISSING)}: pip install 'holdfast[fastapi]'")

from .install import Closable, Edge, install  # noqa: E402 - after the check above
from .routes import current_principal, edge, require  # noqa: E402
from .settings import EdgeSettings  # noqa: E402

__all__ = ["Closable", "Edge", "EdgeSettings", "current_principal", "edge", "install", "require"]
