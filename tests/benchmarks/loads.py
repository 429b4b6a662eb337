"""Legs `backlog`, `slow` and `waiting`: much to do at once, slow answers, many who wait."""

import asyncio
import resource
from collections.abc import Sequence
from pathlib import Path
from time import perf_counter
from typing import Any, Final

from shared import keys
from shared.answers import Answers
from shared.order import CallOrder
from tests.benchmarks.all_there import all_there
from tests.benchmarks.contenders import WARM_UP, Ours, check, checked, in_flight
from tests.benchmarks.readings import median
from tests.benchmarks.scale import Scale
from tests.benchmarks.stage import BenchmarkFailed, Stage, stage
from tests.benchmarks.wishes import wishes

SLOW_S: Final = 1.0
SLOW_JOBS: Final = 500
PATIENCE_S: Final = 600.0


async def backlog(scale: Scale, folder: Path) -> dict[str, Any]:
    """Orders that came while the one worker was away; counted from its first POST to the last."""
    few, many = scale.backlog
    figures: dict[str, float] = {}
    async with stage(folder) as on:
        on.ours.grow_to(1)
        await checked(Ours(on), on, wishes(WARM_UP))
        small = [await worked_off(on, few) for _ in range(scale.runs)]
        figures[str(few)] = median(small)
        figures[str(many)] = median([await worked_off(on, many)])
        # Once more after the many: were these slower, it would be for what the store holds.
        after = [await worked_off(on, few) for _ in range(scale.runs)]
        figures[f"{few}_after"] = median(after)
    return {"backlog": figures | {"workers": 1, "runs_of_the_many": 1}}


async def worked_off(on: Stage, number: int) -> float:
    """Return orders a second, after `number` orders were put in while the worker was paused."""
    on.ours.pause()
    counted = (await on.tally())["orders"]
    orders = wishes(number)
    await in_flight(on.ledger.submit, orders)
    on.ours.resume()
    while (sent := (await on.tally())["orders"] - counted) == 0:
        await asyncio.sleep(0.002)
    began = perf_counter()
    results = [keys.result(order.order_id) for order in orders]
    await all_there(on.ledger.redis, results, within_s=PATIENCE_S)
    took_s = perf_counter() - began
    await vouch(on, orders, counted)
    return (number - sent) / took_s


async def slow_calls(scale: Scale, folder: Path) -> dict[str, Any]:
    """One worker that may hold 500 calls, and a handler that takes a second for each."""
    jobs = {"RINGONCE_MAX_JOBS": str(SLOW_JOBS)}
    async with stage(folder, delay_s=SLOW_S, settings=jobs) as on:
        on.ours.grow_to(1)
        run = await checked(Ours(on), on, wishes(scale.slow))
        held = (await on.tally())["most_at_once"]
    return {
        "slow_calls": {
            "held_at_once": held,
            "orders_per_s": round(run.orders_per_s),
            "orders": scale.slow,
            "handler_answers_after_s": SLOW_S,
            "workers": 1,
        }
    }


async def waiting_graphs(scale: Scale, folder: Path) -> dict[str, Any]:
    """Many wait in this process for orders that nobody sends yet; then all get their answer."""
    async with stage(folder) as on, Answers(on.ledger.redis) as answers:
        orders = wishes(scale.waiting)
        await in_flight(on.ledger.submit, orders)
        waiting = [
            asyncio.create_task(answers.wait(order.order_id, PATIENCE_S)) for order in orders
        ]
        await asyncio.sleep(2)  # each looks once for itself before it only waits
        began, busy = perf_counter(), cpu_s()
        await asyncio.sleep(scale.waiting_s)
        percent = (cpu_s() - busy) / (perf_counter() - began) * 100
        if any(task.done() for task in waiting):
            raise BenchmarkFailed("some did not wait")
        on.ours.grow_to(1)
        results = await asyncio.gather(*waiting)
        answered = [result.call_sid for result in results if result and result.call_sid]
        check("waiting", len(orders), answered, (await on.tally())["orders"])
    return {"waiting_graphs": {"n": scale.waiting, "cpu_percent": round(percent, 2)}}


async def vouch(on: Stage, orders: Sequence[CallOrder], counted: int) -> None:
    sids = await Ours(on).call_sids(orders)
    check("backlog", len(orders), sids, (await on.tally())["orders"] - counted)


def cpu_s() -> float:
    """Return the seconds this process has kept a core busy."""
    used = resource.getrusage(resource.RUSAGE_SELF)
    return used.ru_utime + used.ru_stime
