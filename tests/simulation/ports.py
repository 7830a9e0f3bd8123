"""The ports over the fake server: one body of moves, a synchronous and an asynchronous way to make them."""

from __future__ import annotations

import asyncio
from typing import TypeVar

from holdfast.operation import Record
from holdfast.transaction import ROLLBACK_GRACE_S, ProbeAnswer

from .client import FOREVER, Client, Moves
from .virtual_time import VirtualClock

__all__ = ["FakeAsyncPort", "FakePort", "ProcessClock", "play", "play_async"]

T = TypeVar("T")


def play(clock: VirtualClock, moves: Moves[T], until: float) -> T:
    """Make `moves` in the calling thread; a driver that waits beyond `until` raises `TimeoutError`."""
    try:
        wait = next(moves)
        while True:
            if wait.cancelled:
                wait = moves.throw(KeyboardInterrupt())
            elif clock.now + wait.seconds >= until:
                clock.advance_to(until)
                wait = moves.throw(TimeoutError())
            else:
                clock.advance(wait.seconds)
                wait = next(moves)
    except StopIteration as end:
        result: T = end.value
        return result


async def play_async(moves: Moves[T]) -> T:
    """Make `moves` in the calling task; whoever wants them to end in time cancels them."""
    try:
        wait = next(moves)
        while True:
            try:
                if wait.cancelled:
                    task = asyncio.current_task()
                    assert task is not None
                    task.cancel()
                    await asyncio.sleep(0)  # noqa: TID251 - virtual time
                elif wait is FOREVER:
                    await asyncio.get_running_loop().create_future()
                else:
                    await asyncio.sleep(wait.seconds)  # noqa: TID251 - virtual time
            except BaseException as error:
                wait = moves.throw(error)
            else:
                wait = next(moves)
    except StopIteration as end:
        result: T = end.value
        return result


class FakePort:
    """The synchronous port."""

    in_cluster = False

    def __init__(self, client: Client) -> None:
        self.client = client
        self.classify = client.classify
        self.stored_result = client.stored_result

    def begin(self) -> None:
        self._play(self.client.begin())

    def claim(self, attempt: int, *, settling: bool) -> Record | None:
        return self._play(self.client.claim(attempt, settling=settling))

    def run(self) -> str:
        return self._play(self.client.run())

    def store(self, result: str) -> None:
        self._play(self.client.store(result))

    def commit(self, *, claiming: int | None = None) -> None:
        self._play(self.client.commit(claiming=claiming))

    def roll_back(self) -> None:
        client = self.client
        play(client.clock, client.roll_back(), max(client.expires_at, client.clock.now) + ROLLBACK_GRACE_S)

    def discard(self, *, kill: bool) -> None:
        self._play(self.client.discard(kill=kill))

    def await_server(self) -> bool:
        return play(self.client.clock, self.client.await_server(), float("inf"))

    def probe(self) -> ProbeAnswer:
        return self._play(self.client.probe())

    def _play(self, moves: Moves[T]) -> T:
        return play(self.client.clock, moves, self.client.expires_at)


class FakeAsyncPort:
    """The asynchronous port."""

    in_cluster = False

    def __init__(self, client: Client) -> None:
        self.client = client
        self.classify = client.classify
        self.stored_result = client.stored_result

    async def begin(self) -> None:
        await play_async(self.client.begin())

    async def claim(self, attempt: int, *, settling: bool) -> Record | None:
        return await play_async(self.client.claim(attempt, settling=settling))

    async def run(self) -> str:
        return await play_async(self.client.run())

    async def store(self, result: str) -> None:
        await play_async(self.client.store(result))

    async def commit(self, *, claiming: int | None = None) -> None:
        await play_async(self.client.commit(claiming=claiming))

    async def roll_back(self) -> None:
        await play_async(self.client.roll_back())

    async def discard(self, *, kill: bool) -> None:
        await play_async(self.client.discard(kill=kill))

    async def await_server(self) -> bool:
        return await play_async(self.client.await_server())

    async def probe(self) -> ProbeAnswer:
        return await play_async(self.client.probe())


class ProcessClock:
    """The clock as one call reads it: its sleeps are moves like any other, and can meet a fault."""

    __slots__ = ("_client",)

    def __init__(self, client: Client) -> None:
        self._client = client

    def monotonic(self) -> float:
        return self._client.clock.now

    def sleep(self, seconds: float, /) -> None:
        play(self._client.clock, self._client.sleep(seconds), float("inf"))

    async def sleep_async(self, seconds: float, /) -> None:
        await play_async(self._client.sleep(seconds))
