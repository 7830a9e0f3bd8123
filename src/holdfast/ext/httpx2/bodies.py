"""Bodies on their way out and in: what can be sent again, what is kept of an answer, and when reading has to end."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator
from typing import cast

import httpx2

from ...clock import Clock
from ...deadline import Deadline

__all__ = ["KEPT_MAX", "KEPT_WITHIN_S", "Bounded", "BoundedAsync", "Watched", "keep", "keep_async"]

KEPT_MAX = 64 * 1024
"""Bytes of a refusal's body that are read, so that its connection can be used again; of a longer one nothing is kept."""

KEPT_WITHIN_S = 0.25
"""How long that may take, in seconds: a refusal mostly comes whole, and a new connection costs less than a long wait."""


class Watched(httpx2.SyncByteStream, httpx2.AsyncByteStream):
    """A request's body that can be sent only once, and tells whether that has begun."""

    def __init__(self, stream: httpx2.SyncByteStream | httpx2.AsyncByteStream) -> None:
        self._stream = stream
        self.begun = False

    def __iter__(self) -> Iterator[bytes]:
        self.begun = True
        return iter(cast("httpx2.SyncByteStream", self._stream))

    def __aiter__(self) -> AsyncIterator[bytes]:
        self.begun = True
        return aiter(cast("httpx2.AsyncByteStream", self._stream))

    def close(self) -> None:
        """Close what is behind."""
        cast("httpx2.SyncByteStream", self._stream).close()

    async def aclose(self) -> None:
        """Close what is behind."""
        await cast("httpx2.AsyncByteStream", self._stream).aclose()


class Bounded(httpx2.SyncByteStream):
    """An answer's body that is not read beyond the deadline. It is looked at between pieces: a read under way is not cut."""

    def __init__(self, stream: httpx2.SyncByteStream, deadline: Deadline) -> None:
        self._stream = stream
        self._deadline = deadline

    def __iter__(self) -> Iterator[bytes]:
        for part in self._stream:
            if self._deadline.has_passed():
                self.close()
                raise _too_late()
            yield part

    def close(self) -> None:
        """Close what is behind."""
        self._stream.close()


class BoundedAsync(httpx2.AsyncByteStream):
    """An answer's body whose reading is cut at the deadline."""

    def __init__(self, stream: httpx2.AsyncByteStream, deadline: Deadline) -> None:
        self._stream = stream
        self._deadline = deadline

    async def __aiter__(self) -> AsyncIterator[bytes]:
        parts = aiter(self._stream)
        try:
            while True:
                timer = asyncio.timeout(self._deadline.remaining_s())
                try:
                    async with timer:
                        part = await anext(parts)
                except StopAsyncIteration:
                    return
                except TimeoutError as error:
                    if not timer.expired():
                        raise
                    await self.aclose()
                    raise _too_late() from error
                yield part
        finally:
            end = getattr(parts, "aclose", None)
            if end is not None:
                await end()

    async def aclose(self) -> None:
        """Close what is behind."""
        await self._stream.aclose()


def _too_late() -> httpx2.ReadTimeout:
    return httpx2.ReadTimeout("the deadline passed before the answer was read")


def keep(response: httpx2.Response, clock: Clock) -> httpx2.Response:
    """The same answer without its connection, which is free again, or closed if too much was still to come."""
    parts: list[bytes] = []
    size, until, whole = 0, clock.monotonic() + KEPT_WITHIN_S, True
    try:
        for part in cast("httpx2.SyncByteStream", response.stream):
            parts.append(part)
            size += len(part)
            if size > KEPT_MAX or clock.monotonic() > until:
                whole = False
                break
    except httpx2.TransportError:
        whole = False
    finally:
        response.close()
    return _detached(response, b"".join(parts) if whole else None)


async def keep_async(response: httpx2.Response) -> httpx2.Response:
    """As `keep`, in a coroutine."""
    parts: list[bytes] = []
    size, whole = 0, True
    stream = aiter(cast("httpx2.AsyncByteStream", response.stream))
    try:
        async with asyncio.timeout(KEPT_WITHIN_S):
            async for part in stream:
                parts.append(part)
                size += len(part)
                if size > KEPT_MAX:
                    whole = False
                    break
    except (httpx2.TransportError, TimeoutError):
        whole = False
    finally:
        end = getattr(stream, "aclose", None)
        if end is not None:
            await end()
        await response.aclose()
    return _detached(response, b"".join(parts) if whole else None)


def _detached(response: httpx2.Response, body: bytes | None) -> httpx2.Response:
    headers = response.headers.copy()
    if body is None:
        for name in ("content-length", "content-encoding", "transfer-encoding"):
            headers.pop(name, None)
    extensions = {name: value for name, value in response.extensions.items() if name != "network_stream"}
    return httpx2.Response(
        response.status_code, headers=headers, stream=httpx2.ByteStream(body or b""), extensions=extensions
    )
