"""Legs `throughput` (one worker) and `scaling` (more): orders a second, submit included."""

import sys
from collections import defaultdict
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tests.benchmarks.contenders import Run, contenders, together
from tests.benchmarks.readings import median
from tests.benchmarks.redis_counters import Counters
from tests.benchmarks.scale import Scale
from tests.benchmarks.stage import Stage, stage

Runs = dict[str, list[Run]]


async def throughput(scale: Scale, folder: Path) -> dict[str, Any]:
    """One worker against a direct client and against one of stock arq."""
    async with stage(folder) as on:
        orders = dict.fromkeys(("ours", "direct", "arq"), scale.orders)
        runs = await in_turns(on, 1, scale.runs, orders)
    ours, direct, arq = (speed(runs[name]) for name in ("ours", "direct", "arq"))
    spent = cost(runs["ours"])
    return {
        "orders_per_s": ours,
        "direct_httpx_orders_per_s": direct,
        "ratio_to_direct": round(ours / direct, 2),
        "stock_arq_orders_per_s": arq,
        "ratio_to_arq": round(ours / arq, 2),
        "redis_commands_per_order": spent.commands,
        "round_trips_per_order": spent.round_trips,
        "throughput_runs": scale.runs,
        "throughput_orders": scale.orders,
        "throughput_each": {
            name: [round(run.orders_per_s) for run in each] for name, each in runs.items()
        },
        "scaling": {"1": side_by_side(runs)},
    }


async def scaling(scale: Scale, folder: Path) -> dict[str, Any]:
    """More and more workers, ours and arq's; the most of them as often as ratios ask for."""
    figures: dict[str, Any] = {}
    most = scale.workers[-1]
    async with stage(folder) as on:
        for workers in scale.workers[1:]:
            times = scale.runs if workers == most else scale.scaling_runs
            orders = {"ours": scale.scaling_orders, "arq": scale.scaling_arq_orders}
            runs = await in_turns(on, workers, times, orders)
            figures[str(workers)] = side_by_side(runs) | {"runs": times, "orders": orders}
    last = figures[str(most)]
    ratio = round(last["orders_per_s"] / last["stock_arq_orders_per_s"], 2)
    return {"scaling": figures, f"ratio_to_arq_{most}": ratio}


async def in_turns(on: Stage, workers: int, times: int, orders: Mapping[str, int]) -> Runs:
    """Let those that `orders` names run in turns: what else the machine does hits all alike."""
    runs: Runs = defaultdict(list)
    on.ours.grow_to(workers)
    on.ours.pause()
    on.arq.grow_to(workers)
    async with contenders(on) as rivals:
        for turn in range(times):
            print(f"  {workers} workers, run {turn + 1} of {times}", file=sys.stderr, flush=True)
            for rival in rivals:
                if rival.name not in orders:
                    continue
                async with rival.turn():
                    runs[rival.name].append(await together(rival, on, orders[rival.name]))
    return runs


def side_by_side(runs: Runs) -> dict[str, Any]:
    ours, arq = cost(runs["ours"]), cost(runs["arq"])
    return {
        "orders_per_s": speed(runs["ours"]),
        "commands_per_order": ours.commands,
        "round_trips_per_order": ours.round_trips,
        "stock_arq_orders_per_s": speed(runs["arq"]),
        "stock_arq_commands_per_order": arq.commands,
        "stock_arq_round_trips_per_order": arq.round_trips,
    }


def speed(runs: list[Run]) -> float:
    return median([run.orders_per_s for run in runs])


def cost(runs: list[Run]) -> Counters:
    """Return what an order cost the store, the median of the runs."""
    each = [run.spent.per(run.orders) for run in runs if run.spent]
    return Counters(
        median([spent.commands for spent in each], 2),
        median([spent.round_trips for spent in each], 2),
    )
