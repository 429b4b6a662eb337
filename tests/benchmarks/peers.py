"""Leg `peers`, only when asked for: other job queues, if installed, with the same work."""

import asyncio
import contextlib
import importlib
import sys
from collections.abc import AsyncIterator, Callable, Sequence
from pathlib import Path
from time import perf_counter
from typing import Any, Final

from shared.embedded_server import embedded_server
from shared.order import CallOrder
from tests.benchmarks.all_there import all_there
from tests.benchmarks.contenders import PATIENCE_S, Contender, in_flight, together
from tests.benchmarks.latency import WARM_UP, one_by_one
from tests.benchmarks.peer_worker import saq_queue, taskiq_broker
from tests.benchmarks.readings import median, spread
from tests.benchmarks.scale import Scale
from tests.benchmarks.stage import BenchmarkFailed, Stage, module, stage
from tests.benchmarks.wishes import body

LOOK_EVERY_S: Final = 0.005


async def peers(scale: Scale, folder: Path) -> dict[str, Any]:
    """One worker of each kind."""
    figures: dict[str, Any] = {}
    for name, (module_name, kind) in PEERS.items():
        try:
            importlib.import_module(module_name)
        except ImportError:
            print(f"{name}: not installed, skipped", file=sys.stderr)
            continue
        place = folder / name
        place.mkdir()
        figures[name] = await measured(name, kind, scale, place)
    return {"peers": figures}


async def measured(name: str, kind: Callable[[str], Any], scale: Scale, folder: Path) -> Any:
    """Return orders a second and milliseconds alone of one kind."""
    async with stage(folder) as on:
        with embedded_server(folder / "peer") as url:
            told = ("peer_worker", name, "--redis", url, "--handler", on.handler)
            with module(*told, log=folder / "worker.log"):
                peer = kind(url)
                async with peer.turn():
                    return await readings(peer, scale, on)


async def readings(peer: Contender, scale: Scale, on: Stage) -> dict[str, Any]:
    """Measure as the latency and throughput legs do."""
    await one_by_one(peer, on, WARM_UP)
    took_ms = await one_by_one(peer, on, scale.alone // 2)
    runs = [await together(peer, on, scale.orders) for _ in range(scale.scaling_runs)]
    return {
        "orders_per_s": median([run.orders_per_s for run in runs]),
        "latency_ms": spread(took_ms),
        "runs": scale.scaling_runs,
    }


class Saq:
    """SAQ: enqueue, and its own way of waiting for a job, as fast as it can be set."""

    name = "saq"

    def __init__(self, url: str) -> None:
        self._queue = saq_queue(url)

    @contextlib.asynccontextmanager
    async def turn(self) -> AsyncIterator[None]:
        await self._queue.connect()
        yield
        await self._queue.disconnect()

    async def alone(self, order: CallOrder) -> str:
        wish = {"body": body(order), "key": order.order_id}
        return str(await self._queue.apply("place", poll_interval=0.001, **wish))

    async def enqueue(self, order: CallOrder) -> None:
        await self._queue.enqueue("place", body=body(order), key=order.order_id)

    async def carry(self, orders: Sequence[CallOrder]) -> int:
        """Its jobs keep one key from beginning to end: ask how many are not done."""
        await in_flight(self.enqueue, orders)
        looks, deadline = 1, perf_counter() + PATIENCE_S
        while await self._queue.count("incomplete"):
            looks += 1
            if perf_counter() > deadline:
                raise BenchmarkFailed("saq: some never ended")
            await asyncio.sleep(LOOK_EVERY_S)
        return looks

    async def call_sids(self, orders: Sequence[CallOrder]) -> list[str]:
        jobs = await self._queue.jobs([order.order_id for order in orders])
        return [str(job.result) for job in jobs if job is not None and job.status == "complete"]

    async def counters(self) -> None:
        return None


class Taskiq:
    """taskiq with a Redis list and Redis results."""

    name = "taskiq"

    def __init__(self, url: str) -> None:
        self._broker = taskiq_broker(url)
        self._place = self._broker.register_task(placeholder, task_name="place")

    @contextlib.asynccontextmanager
    async def turn(self) -> AsyncIterator[None]:
        await self._broker.startup()
        yield
        await self._broker.shutdown()

    async def alone(self, order: CallOrder) -> str:
        task = await self._place.kiq(body(order))
        result = await task.wait_result(check_interval=0.001, timeout=PATIENCE_S)
        return str(result.return_value)

    async def enqueue(self, order: CallOrder) -> None:
        await self._place.kicker().with_task_id(order.order_id).kiq(body(order))

    async def carry(self, orders: Sequence[CallOrder]) -> int:
        await in_flight(self.enqueue, orders)
        redis = importlib.import_module("redis.asyncio").Redis(
            connection_pool=self._broker.connection_pool
        )
        return await all_there(redis, [order.order_id for order in orders], within_s=PATIENCE_S)

    async def call_sids(self, orders: Sequence[CallOrder]) -> list[str]:
        backend = self._broker.result_backend
        results = [await backend.get_result(order.order_id) for order in orders]
        return [str(result.return_value) for result in results if not result.is_err]

    async def counters(self) -> None:
        return None


async def placeholder(body: dict[str, Any]) -> str:
    """Name the task on this side: taskiq wants a function, and only the worker's is ever run."""
    raise AssertionError("it is run by peer_worker.py")


PEERS: Final[dict[str, tuple[str, Callable[[str], Any]]]] = {
    "saq": ("saq.queue.redis", Saq),
    "taskiq": ("taskiq_redis", Taskiq),
}
