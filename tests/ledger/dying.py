"""The ledger, killed between effect and answer: `python -m tests.ledger.dying`, as `python -m examples.ledger`.

A request with the header `X-Die` ends the process with SIGKILL when the first byte of its answer is about to leave: after COMMIT.
"""

from __future__ import annotations

import os
import signal

from examples.ledger.main import create_app, open_database
from examples.ledger.settings import LedgerSettings, edge_settings
from holdfast.asgi.interface import App, Message, Receive, Scope, Send
from holdfast.ext.uvicorn import serve


def dying(app: App) -> App:
    """`app`, which does not survive its answer to a request that says so."""

    async def call(scope: Scope, receive: Receive, send: Send) -> None:
        async def last_words(message: Message) -> None:
            if message["type"] == "http.response.start":
                os.kill(os.getpid(), signal.SIGKILL)
            await send(message)

        dies = scope["type"] == "http" and any(name == b"x-die" for name, _ in scope["headers"])
        await app(scope, receive, last_words if dies else send)

    return call


if __name__ == "__main__":
    settings, edge = LedgerSettings(), edge_settings()
    ledger = create_app(open_database(settings, edge), settings, edge)
    serve(dying(ledger), port=settings.port, access_log=False)
