"""Leg `latency`: one order at a time on an idle system, from submit to an answer somebody sees."""

from collections import defaultdict
from pathlib import Path
from time import perf_counter
from typing import Any, Final

from shared import keys
from shared.answers import Answers
from tests.benchmarks.all_there import all_there
from tests.benchmarks.contenders import Contender, check, contenders
from tests.benchmarks.readings import spread
from tests.benchmarks.redis_counters import Counters
from tests.benchmarks.scale import Scale
from tests.benchmarks.stage import Stage, stage
from tests.benchmarks.wishes import wishes

BLOCK: Final = 50
WARM_UP: Final = 20
COUNTED: Final = 200


async def latency(scale: Scale, folder: Path) -> dict[str, Any]:
    """Measure block by block in turns, one worker each; `samples_ms` are for the plot."""
    samples: dict[str, list[float]] = defaultdict(list)
    async with stage(folder) as on, Answers(on.ledger.redis) as answers:
        on.ours.grow_to(1)
        on.arq.grow_to(1)
        async with contenders(on, answers) as rivals:
            for _ in range(max(1, scale.alone // BLOCK)):
                for rival in rivals:
                    async with rival.turn():
                        await one_by_one(rival, on, WARM_UP)
                        samples[rival.name] += await one_by_one(rival, on, BLOCK)
        on.ours.resume()
        idle = await spent_alone(on, min(scale.alone, COUNTED))
    spreads = {name: spread(readings) for name, readings in samples.items()}
    ours, direct = spreads["ours"], spreads["direct"]
    return {
        "latency_ms": ours,
        "latency_direct_ms": direct,
        "latency_stock_arq_ms": spreads["arq"],
        "overhead_over_direct_ms": {p: round(ours[p] - direct[p], 2) for p in ours},
        "latency_orders": len(samples["ours"]),
        "redis_commands_per_order_idle": idle.commands,
        "round_trips_per_order_idle": idle.round_trips,
        "samples_ms": dict(samples),
    }


async def one_by_one(rival: Contender, on: Stage, number: int) -> list[float]:
    """Return how many milliseconds each of `number` orders took."""
    counted, took_ms, sids = (await on.tally())["orders"], [], []
    for order in wishes(number):
        began = perf_counter()
        sids.append(await rival.alone(order))
        took_ms.append((perf_counter() - began) * 1000)
    check(rival.name, number, sids, (await on.tally())["orders"] - counted)
    return took_ms


async def spent_alone(on: Stage, number: int) -> Counters:
    """Return what an order costs the store when it comes alone, without the looking of ours."""
    before, looks = await Counters.read(on.ledger.redis), 0
    for order in wishes(number):
        await on.ledger.submit(order)
        answer = keys.result(order.order_id)
        looks += await all_there(on.ledger.redis, [answer], within_s=30, every_s=0.001)
    return (await Counters.read(on.ledger.redis)).since(before, asked=looks).per(number)
