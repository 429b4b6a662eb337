"""arq as anybody would use it, at its best: what Ringonce is compared with.

python -m tests.benchmarks.stock_arq --redis URL --handler URL     prints a line once it works

Its settings are those that measured fastest: `poll_delay` 5 ms instead of 0.5 s, 50 jobs at once,
one httpx client for all jobs. Everything else, its logging at INFO included, is arq's default.
"""

import argparse
import logging.config
from typing import Any, Final

import httpx
from arq import Worker, func
from arq.connections import RedisSettings
from arq.logs import default_log_config

POLL_DELAY_S: Final = 0.005
MAX_JOBS: Final = 50


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--redis", required=True)
    parser.add_argument("--handler", required=True)
    asked = parser.parse_args()
    logging.config.dictConfig(default_log_config(verbose=False))
    worker = Worker(
        functions=[func(place, name="place")],
        redis_settings=RedisSettings.from_dsn(asked.redis),
        max_jobs=MAX_JOBS,
        poll_delay=POLL_DELAY_S,
        on_startup=open_client,
        on_shutdown=close_client,
        ctx={"url": f"{asked.handler}/order"},
    )
    worker.run()


async def place(ctx: dict[str, Any], body: dict[str, Any]) -> str:
    """The job: POST the order, return the call_sid."""
    answer = await ctx["client"].post(ctx["url"], json=body)
    answer.raise_for_status()
    return str(answer.json()["call_sid"])


async def open_client(ctx: dict[str, Any]) -> None:
    ctx["client"] = httpx.AsyncClient()
    print("stock arq", flush=True)


async def close_client(ctx: dict[str, Any]) -> None:
    await ctx["client"].aclose()


if __name__ == "__main__":
    main()
