"""Leg `store`: putting orders in, the bytes they take, and what idle workers ask for."""

import asyncio
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

from redis.asyncio import Redis

from shared import keys
from shared.order import CallOrder
from tests.benchmarks.all_there import all_there
from tests.benchmarks.contenders import PATIENCE_S, WARM_UP, StockArq, in_flight
from tests.benchmarks.readings import median
from tests.benchmarks.redis_counters import Counters
from tests.benchmarks.scale import Scale
from tests.benchmarks.stage import Stage, stage
from tests.benchmarks.stopwatch import seconds
from tests.benchmarks.wishes import wishes

IDLE_WORKERS: Final = 4


async def store_cost(scale: Scale, folder: Path) -> dict[str, Any]:
    """No worker runs while orders are put in; then they are worked off; then nothing is left."""
    async with stage(folder) as on:
        submit, enqueue, queued, final = await filled(on, scale)
        await asyncio.sleep(1)  # what follows the last order is not idleness yet
        idle = await idleness(on.ledger.redis, scale.idle_s)
        on.ours.pause()
        on.arq.grow_to(IDLE_WORKERS)
        await asyncio.sleep(1)
        arq_idle = await idleness(on.arq_pool, scale.idle_s)
    return {
        "submit_per_s": submit,
        "stock_arq_enqueue_per_s": enqueue,
        "bytes_per_order": {
            "queued": queued,
            "final": final,
            "orders": scale.queued,
            "measured_by": "used_memory before and after, less the order's own JSON",
        },
        "idle_commands_per_s_per_worker": idle,
        "stock_arq_idle_commands_per_s_per_worker": arq_idle,
        "idle_workers": IDLE_WORKERS,
    }


async def filled(on: Stage, scale: Scale) -> tuple[float, float, int, int]:
    """Return submits and enqueues a second, then bytes an order beyond its own, queued and final.

    One worker of ours works the orders off, and the rest of the idle ones are started then.
    """
    redis, arq = on.ledger.redis, StockArq(on)
    # Scripts, indexes and buffers that are there only once.
    warm = wishes(WARM_UP)
    await in_flight(on.ledger.submit, warm)
    before, all_orders = await used_memory(redis), list[CallOrder]()
    submits, enqueues = [], []
    for _ in range(scale.runs):
        orders = wishes(max(1, scale.queued // scale.runs))
        submits.append(len(orders) / await seconds(in_flight(on.ledger.submit, orders)))
        enqueues.append(len(orders) / await seconds(in_flight(arq.enqueue, orders)))
        all_orders += orders
    own = sum(len(order.model_dump_json()) for order in all_orders) / len(all_orders)
    queued = (await used_memory(redis) - before) / len(all_orders) - own
    await on.arq_pool.flushdb()
    on.ours.grow_to(IDLE_WORKERS)
    await all_there(redis, results_of([*warm, *all_orders]), within_s=PATIENCE_S)
    final = (await used_memory(redis) - before) / len(all_orders) - own
    return median(submits), median(enqueues), round(queued), round(final)


def results_of(orders: Sequence[CallOrder]) -> list[str]:
    return [keys.result(order.order_id) for order in orders]


async def used_memory(redis: Redis) -> int:
    """Return what the data takes: the server's whole memory less what connections take of it."""
    told: dict[str, int] = await redis.info("memory")
    return told["used_memory"] - told["mem_clients_normal"] - told["mem_aof_buffer"]


async def idleness(redis: Redis, for_s: float) -> float:
    """Return how many commands a second each of the idle workers has carried out."""
    before = await Counters.read(redis)
    await asyncio.sleep(for_s)
    spent = (await Counters.read(redis)).since(before)
    return round(spent.commands / for_s / IDLE_WORKERS, 2)
