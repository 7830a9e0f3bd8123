"""How a websocket is refused before it was accepted: by a document where the server can send one, else by a code."""

from __future__ import annotations

from .context import RequestContext
from .interface import Message, Scope, Send
from .problems import Problem, send_problem

__all__ = ["refuse_handshake"]


async def refuse_handshake(
    scope: Scope, send: Send, problem: Problem, context: RequestContext | None, *, code: int
) -> None:
    """Answer the handshake of the websocket that `scope` describes with `problem`.

    Args:
        scope: the websocket's; nothing may have been sent for it before.
        send: where to send it.
        problem: the answer, where the server has the extension `websocket.http.response`.
        context: the request's.
        code: what the socket is closed with where it has not; servers answer the handshake with 403 then.
    """
    if "websocket.http.response" in (scope.get("extensions") or {}):
        await send_problem(_Prefixed(send), problem, context)
    else:
        await send({"type": "websocket.close", "code": code})


class _Prefixed:
    """A `send` for the answer to a websocket's handshake."""

    __slots__ = ("_send",)

    def __init__(self, send: Send) -> None:
        self._send = send

    async def __call__(self, message: Message) -> None:
        await self._send({**message, "type": f"websocket.{message['type']}"})
