"""`make bench`: what a person waits for, on real processes. The last line is one JSON object.

python -m tests.benchmarks [--conversations N] [--orders N]
"""

import argparse
import asyncio
import contextlib
import json
import os
import platform
import statistics
import sys
import tempfile
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path
from time import perf_counter
from typing import Any

from orchestrator.workflow_manager import open_workflow_manager
from shared.child import child
from shared.clock import SYSTEM_CLOCK
from shared.embedded_server import embedded_server
from shared.ledger import Ledger
from shared.log import configure_logging
from shared.order import CallOrder, mint_order_id
from shared.redis_pool import ledger_client
from shared.settings import Settings

TASK = "Order a large pepperoni pizza from Luigi's at +1 202 555 0123"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--conversations", type=int, default=200)
    parser.add_argument("--orders", type=int, default=1000)
    asked = parser.parse_args()
    configure_logging("WARNING", "auto")
    with stack(workers=2) as settings:
        figures = asyncio.run(measure(settings, asked.conversations, asked.orders))
    told = figures["confirmation_to_call_sid_ms"]
    print(f"python {platform.python_version()}, {os.cpu_count()} cores", file=sys.stderr)
    print(f"confirmation to call_sid  median {told['p50']} ms, p99 {told['p99']} ms")
    print(f"orders through two workers  {figures['orders_per_s']} orders/s, submit included")
    print(json.dumps(figures))


@contextlib.contextmanager
def stack(workers: int) -> Iterator[Settings]:
    """A store, a rehearsal handler and workers, each a process, gone afterwards."""
    with contextlib.ExitStack() as opened:
        folder = Path(opened.enter_context(tempfile.TemporaryDirectory(prefix="ringonce-bench-")))
        url = opened.enter_context(embedded_server(folder / "store"))
        env = os.environ | {"REDIS_URL": url, "RINGONCE_LOG_LEVEL": "WARNING"}
        rehearsal = child("rehearsal", "--port", "0", env=env, log=folder / "rehearsal.log")
        handler_url = opened.enter_context(rehearsal)().removeprefix("rehearsal ")
        env |= {"RINGONCE_CALL_HANDLER_URL": handler_url}
        for number in range(workers):
            opened.enter_context(child("worker", env=env, log=folder / f"worker{number}.log"))()
        yield Settings(redis_url=url, data_dir=folder)


async def measure(settings: Settings, conversations: int, orders: int) -> dict[str, Any]:
    redis = ledger_client(str(settings.redis_url), patience_s=5)
    ledger = Ledger(redis)
    try:
        async with open_workflow_manager(settings, ledger, redis) as manager:
            waits = []
            for _ in range(conversations):
                turn = await manager.start(TASK, owner="bench")
                began = perf_counter()
                turn = await manager.continue_(turn.thread_id, "yes", reply_to=turn.reply_to)
                waits.append((perf_counter() - began) * 1000)
                assert turn.call_sid, turn
        wishes = [wish(number) for number in range(orders)]
        began = perf_counter()
        gate = asyncio.Semaphore(32)

        async def submit(order: CallOrder) -> None:
            async with gate:
                await ledger.submit(order)

        await asyncio.gather(*(submit(order) for order in wishes))
        ids = [order.order_id for order in wishes]
        while len(await ledger.results(ids)) < orders:
            await asyncio.sleep(0.01)
        took_s = perf_counter() - began
    finally:
        await redis.aclose()
    return {
        "confirmation_to_call_sid_ms": {
            "n": conversations,
            "p50": round(statistics.median(waits), 1),
            "p99": round(statistics.quantiles(waits, n=100)[98], 1),
        },
        "orders": orders,
        "workers": 2,
        "orders_per_s": round(orders / took_s),
    }


def wish(number: int) -> CallOrder:
    now = SYSTEM_CLOCK.now()
    return CallOrder(
        order_id=mint_order_id(),
        target_phone_number="+12025550123",
        final_instructions=f"Say hello, {number}.",
        created_at=now,
        expires_at=now + timedelta(hours=1),
    )


if __name__ == "__main__":
    main()
