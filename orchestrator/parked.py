"""Which conversation waits for which order: remembered in the store, for whoever is there later.

An entry is written before a yes is acted on and removed once the conversation has its report, so
that at no moment a process could die and leave a waiting conversation that nobody knows of. One
too many does no harm: who looks at it finds nothing open, and removes it.
"""

import contextlib
from collections.abc import AsyncIterator, Callable, Sequence
from typing import Final

from redis.asyncio import Redis

from orchestrator.thread_lock import ThreadBusy, alone
from shared import keys

_PAGE: Final = 500


class Parked:
    """The conversations of all orchestrators that wait for the answer to an order."""

    def __init__(self, redis: Redis) -> None:
        self._redis = redis
        self.hear: Callable[[str, str], None] | None = None
        """Told (order id, thread id) of each that is left waiting by this process."""

    async def add(self, order_id: str, thread_id: str) -> None:
        """Remember that the conversation waits for the order."""
        await self._redis.hset(keys.PARKED, order_id, thread_id)  # type: ignore[misc]

    def left_waiting(self, order_id: str, thread_id: str) -> None:
        """Say that a turn has ended without an answer, and nobody of this process waits for it."""
        if self.hear is not None:
            self.hear(order_id, thread_id)

    async def remove(self, order_id: str) -> None:
        """Forget the order: its conversation has moved on."""
        await self._redis.hdel(keys.PARKED, order_id)  # type: ignore[misc]

    async def drop(self, order_id: str, thread_id: str) -> None:
        """Forget an order that the store does not know, unless its conversation is at work.

        It may just be about to hand the order in.
        """
        with contextlib.suppress(ThreadBusy):
            async with alone(self._redis, thread_id):
                if await self.unknown([order_id]):
                    await self.remove(order_id)

    async def pages(self) -> AsyncIterator[dict[str, str]]:
        """Yield all that are parked, {order id: thread id}, some hundreds at a time."""
        cursor = None
        while cursor != 0:
            cursor, page = await self._redis.hscan(keys.PARKED, cursor or 0, count=_PAGE)
            if page:
                yield page

    async def unknown(self, order_ids: Sequence[str]) -> list[str]:
        """Return those of the orders that the store does not know (any more)."""
        records = [keys.record(order_id) for order_id in order_ids]
        if await self._redis.exists(*records) == len(records):
            return []
        async with self._redis.pipeline(transaction=False) as pipe:
            for record in records:
                pipe.exists(record)
            there = await pipe.execute()
        return [one for one, exists in zip(order_ids, there, strict=True) if not exists]
