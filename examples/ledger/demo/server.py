"""One of the three services, as a process of its own: `python -m examples.ledger.demo.server <way> ...`.

Says on its standard output, as JSON, where it listens and, at its end, what its attempts met. It ends when its standard input
does, so it cannot outlive whoever started it.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import logging
import os
import socket
import sys
import threading
from contextvars import ContextVar
from dataclasses import dataclass

import uvicorn
from starlette.types import ASGIApp, Receive, Scope, Send

from holdfast.ext.sqlalchemy.faults import Fault, inject
from holdfast.ext.uvicorn import Server
from holdfast.shutdown import DRAIN, DrainSettings

from ..main import create_app
from ..settings import LedgerSettings, edge_settings
from .traffic import KEY, fate
from .ways import WAYS

__all__ = ["main"]


@dataclass(slots=True)
class _Progress:
    """How often a request has been tried."""

    key: str
    attempts: int = 0


_current: ContextVar[_Progress | None] = ContextVar("demo_request", default=None)


class _RestOfTheHandler:
    """What a handler does besides saving: other calls, templates, checks. It holds no connection and no lock."""

    def __init__(self, app: ASGIApp, work_s: float) -> None:
        self._app = app
        self._work_s = work_s

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        key = dict(scope.get("headers", ())).get(b"idempotency-key") if scope["type"] == "http" else None
        if key is not None and key.startswith(KEY.encode()):
            _current.set(_Progress(key.decode()))
            await asyncio.sleep(self._work_s)
        await self._app(scope, receive, send)


async def _serve(arguments: argparse.Namespace) -> None:
    settings = LedgerSettings()
    # The demo's clients are one client to the service, and it is not about limits on that.
    edge = edge_settings().model_copy(update={"rate_per_s": None, "tenant_rate_per_s": None})
    db, keys = WAYS[arguments.way](settings.database_url.get_secret_value())
    attempts = 0

    def plan() -> Fault | None:
        nonlocal attempts
        request = _current.get()
        if request is None:
            return None  # the service's start, and the accounts that are opened before the traffic
        attempts += 1
        request.attempts += 1
        return fate(arguments.seed, request.key, request.attempts, arguments.share)

    app = _RestOfTheHandler(create_app(db, settings, edge, keys=keys), arguments.work)
    # The protocol is said because asyncio looks at it before it turns Nagle's algorithm off, which would cost 40 ms an answer.
    listener = socket.socket(proto=socket.IPPROTO_TCP)
    with inject(db.engine, plan, slow=arguments.slow) as injection, listener:
        listener.bind(("127.0.0.1", 0))
        DRAIN.settings = DrainSettings(lame_duck=0)
        server = _Server(uvicorn.Config(app, log_level="error"))
        threading.Thread(target=_stop_with_input, args=(server,), daemon=True).start()
        await server.serve(sockets=[listener])
        _say({"attempts": attempts, "hits": injection.hits})


class _Server(Server):
    """A server that says where it listens."""

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        # From here on errors are the point: each would be a stack trace.
        logging.disable(logging.CRITICAL)
        assert sockets is not None
        _say({"port": sockets[0].getsockname()[1]})


def _say(said: dict[str, object]) -> None:
    print(json.dumps(said), flush=True)


def _stop_with_input(server: Server) -> None:
    while os.read(sys.stdin.fileno(), 1024):
        pass
    server.should_exit = True


def main() -> None:
    """Serve until the standard input ends."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("way", choices=WAYS)
    parser.add_argument("--seed", type=int, required=True)
    for name in ("share", "slow", "work"):
        parser.add_argument(f"--{name}", type=float, required=True)
    asyncio.run(_serve(parser.parse_args()))


if __name__ == "__main__":
    main()
