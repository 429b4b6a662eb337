"""How a benchmark sees that many orders have been answered, without being felt itself."""

import asyncio
from collections.abc import Sequence
from time import perf_counter
from typing import Final

from redis.asyncio import Redis

from tests.benchmarks.stage import BenchmarkFailed

LOOK_EVERY_S: Final = 0.005
LOOKED_AT: Final = 200


async def all_there(
    redis: Redis, keys: Sequence[str], *, within_s: float, every_s: float = LOOK_EVERY_S
) -> int:
    """Return once all `keys` exist: how often was looked.

    One EXISTS at a time, over those that were written first and are not known to be there: what is
    measured shares two cores with it.

    Raises:
        BenchmarkFailed: some do not come.
    """
    looks, seen, deadline = 0, 0, perf_counter() + within_s
    while seen < len(keys):
        some = keys[seen : seen + LOOKED_AT]
        looks += 1
        there = await redis.exists(*some)
        if there == len(some):
            seen += len(some)
        elif perf_counter() > deadline:
            raise BenchmarkFailed(f"{len(some) - there} of {some[0]}… never came ({seen} did)")
        else:
            await asyncio.sleep(every_s)
    return looks
