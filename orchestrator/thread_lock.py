"""One run per conversation at a time: LangGraph has no such lock, and runs a step once per answer.

The lock is short and renewed while its holder lives, so that a conversation whose process was
killed can go on after `LOCK_S` and one that waits long keeps its lock. Should it be lost in spite
of that, the order's id still lets only one order through.
"""

import asyncio
import contextlib
from collections.abc import AsyncIterator
from typing import Final

from redis.asyncio import Redis
from redis.asyncio.lock import Lock
from redis.exceptions import LockError, RedisError

from shared import keys
from shared.ending import ended

LOCK_S: Final = 10.0


class ThreadBusy(Exception):
    """Another message of this conversation is being worked on."""

    def __init__(self) -> None:
        super().__init__(
            "another message of this conversation is being worked on; look the conversation up, "
            f"and try again in up to {LOCK_S:g} s"
        )


@contextlib.asynccontextmanager
async def alone(redis: Redis, thread_id: str) -> AsyncIterator[None]:
    """Hold the conversation while the block lasts.

    Raises:
        ThreadBusy: somebody else holds it.
    """
    lock = redis.lock(keys.thread(thread_id), timeout=LOCK_S)
    if not await lock.acquire(blocking=False):
        raise ThreadBusy
    renewal = asyncio.create_task(_renew(lock))
    try:
        yield
    finally:
        await ended(renewal)
        # What was done is done; a lock that cannot be given back now runs out by itself.
        with contextlib.suppress(RedisError):
            await lock.release()


async def _renew(lock: Lock) -> None:
    while True:
        await asyncio.sleep(LOCK_S / 3)
        try:
            await lock.reacquire()
        except LockError:
            return
        except RedisError:
            continue
