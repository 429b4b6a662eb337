"""One worker of another job queue: the same POST with one httpx client, 50 jobs at once.

python -m tests.benchmarks.peer_worker saq|taskiq --redis URL --handler URL
"""

import argparse
import asyncio
import importlib
import logging
from typing import Any, Final

import httpx

JOBS: Final = 50


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("kind", choices=["saq", "taskiq"])
    parser.add_argument("--redis", required=True)
    parser.add_argument("--handler", required=True)
    asked = parser.parse_args()
    logging.basicConfig(level=logging.INFO)
    logging.getLogger("httpx").setLevel(logging.WARNING)  # arq's does not say that either
    asyncio.run({"saq": saq, "taskiq": taskiq}[asked.kind](asked.redis, asked.handler))


async def saq(redis: str, handler: str) -> None:
    """SAQ's worker."""
    post = Post(handler)

    async def place(_: Any, *, body: dict[str, Any]) -> str:
        return await post(body)

    queue = saq_queue(redis)
    await queue.connect()
    worker = importlib.import_module("saq").Worker(queue, [("place", place)], concurrency=JOBS)
    print("saq", flush=True)
    await worker.start()


async def taskiq(redis: str, handler: str) -> None:
    """taskiq's receiver, as its own command line runs it."""
    post, broker = Post(handler), taskiq_broker(redis)

    async def place(body: dict[str, Any]) -> str:
        return await post(body)

    broker.register_task(place, task_name="place")
    print("taskiq", flush=True)
    run = importlib.import_module("taskiq.api").run_receiver_task
    await run(broker, max_async_tasks=JOBS, run_startup=True)


def saq_queue(redis: str) -> Any:
    """Return SAQ's queue in the store at `redis`."""
    return importlib.import_module("saq.queue.redis").RedisQueue.from_url(redis)


def taskiq_broker(redis: str) -> Any:
    """Return taskiq's broker and result backend in the store at `redis`."""
    taskiq_redis = importlib.import_module("taskiq_redis")
    results = taskiq_redis.RedisAsyncResultBackend(redis)
    return taskiq_redis.ListQueueBroker(redis).with_result_backend(results)


class Post:
    """POSTs a body, returns the call_sid."""

    def __init__(self, handler: str) -> None:
        self._url, self._client = f"{handler}/order", httpx.AsyncClient(trust_env=False)

    async def __call__(self, body: dict[str, Any]) -> str:
        answer = await self._client.post(self._url, json=body)
        answer.raise_for_status()
        return str(answer.json()["call_sid"])


if __name__ == "__main__":
    main()
