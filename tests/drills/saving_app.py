"""An application as a user might have it, for the subject `app`: one that saves through Holdfast, and one that does not."""

from __future__ import annotations

from collections.abc import Mapping

from sqlalchemy import MetaData, String, func, select
from sqlalchemy.ext.asyncio import AsyncSession, async_sessionmaker, create_async_engine
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column

from holdfast.drills.subjects import with_driver
from holdfast.ext.sqlalchemy import AsyncDatabase

__all__ = ["Careful", "Careless", "not_an_app"]


class _Base(DeclarativeBase):
    metadata = MetaData()


class _Order(_Base):
    __tablename__ = "shop_order"

    id: Mapped[int] = mapped_column(primary_key=True)
    reference: Mapped[str] = mapped_column(String(64), index=True)


async def _place_order(session: AsyncSession, reference: str) -> int:
    order = _Order(reference=reference)
    session.add(order)
    await session.flush()
    return order.id


async def _count(session: AsyncSession) -> dict[str, int]:
    rows = await session.execute(select(_Order.reference, func.count()).group_by(_Order.reference))
    return {row[0]: row[1] for row in rows}


class Careful:
    """Saves through Holdfast, under the key."""

    def __init__(self, url: str) -> None:
        self._db = AsyncDatabase(with_driver(url, asynchronous=True))
        self._place_order = self._db.transaction(_place_order)

    async def set_up(self) -> None:
        await self._db.migrate(_Base.metadata)

    async def save(self, identity: str, key: str) -> int:
        return await self._place_order.keyed(key)(identity)

    async def effects(self) -> Mapping[str, int]:
        return await self._db.read(_count)

    async def close(self) -> None:
        await self._db.close()


class Careless:
    """Saves as it comes, and knows no keys."""

    def __init__(self, url: str) -> None:
        self._engine = create_async_engine(with_driver(url, asynchronous=True))
        self._sessions = async_sessionmaker(self._engine)

    async def set_up(self) -> None:
        async with self._engine.begin() as connection:
            await connection.run_sync(_Base.metadata.create_all)

    async def save(self, identity: str, key: str) -> int:
        async with self._sessions() as session:
            made = await _place_order(session, identity)
            await session.commit()
            return made

    def effects(self) -> Mapping[str, int]:
        raise NotImplementedError

    async def close(self) -> None:
        await self._engine.dispose()


def not_an_app(url: str) -> object:
    """Opens something that cannot save."""
    return object()
