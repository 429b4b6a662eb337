"""What every test stands on: a real server, an empty database, and nothing outside loopback."""

import asyncio
import contextlib
import os
import tempfile
from collections.abc import AsyncIterator, Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any, Protocol

import pytest
from redis import Redis as SyncRedis
from redis.asyncio import Redis

from shared.clock import SYSTEM_CLOCK
from shared.embedded_server import embedded_server
from shared.ledger import Ledger
from shared.order import CallOrder, mint_order_id
from shared.redis_pool import ledger_client
from shared.register import Register
from shared.settings import Settings

NUMBER = "+12025550123"


@pytest.fixture(scope="session")
def store_url() -> Iterator[str]:
    """One server for the session: REDIS_URL if set, else the embedded one. Never a skip."""
    if url := os.environ.get("REDIS_URL"):
        yield _empty(url)
        return
    with (
        tempfile.TemporaryDirectory(prefix="ringonce") as folder,
        embedded_server(Path(folder)) as url,
    ):
        yield url


def _empty(url: str) -> str:
    with SyncRedis.from_url(url) as redis:
        if redis.dbsize():
            pytest.exit(f"the database at {url} is not empty: tests would delete what is in it", 2)
    return url


@pytest.fixture
async def redis(store_url: str) -> AsyncIterator[Redis]:
    client = ledger_client(store_url, patience_s=2)
    yield client
    await client.flushdb()
    await client.aclose()


@pytest.fixture
def ledger(redis: Redis) -> Ledger:
    return Ledger(redis)


@pytest.fixture
def register(ledger: Ledger) -> Register:
    return Register(ledger)


@pytest.fixture
def settings(store_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Settings:
    for name in list(os.environ):
        if name.startswith("RINGONCE_"):
            monkeypatch.delenv(name)
    return Settings(redis_url=store_url, data_dir=tmp_path)


class MakeOrder(Protocol):
    def __call__(self, **fields: Any) -> CallOrder: ...


@pytest.fixture
def make_order() -> MakeOrder:
    def make(**fields: Any) -> CallOrder:
        now = SYSTEM_CLOCK.now()
        wish = {
            "order_id": mint_order_id(),
            "target_phone_number": NUMBER,
            "final_instructions": "Order a large pepperoni pizza.",
            "created_at": now,
            "expires_at": now + timedelta(hours=1),
        }
        return CallOrder.model_validate(wish | fields)

    return make


async def eventually(truth: Any, *, within_s: float = 30.0) -> Any:
    """Return what the awaitable function `truth` returns once it is true; fail after `within_s`."""
    # The deadline is looked at as well: on Python 3.11 a cancellation can get lost in redis-py.
    deadline = SYSTEM_CLOCK.monotonic() + within_s
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(within_s):
            while SYSTEM_CLOCK.monotonic() < deadline:
                if found := await truth():
                    return found
                await asyncio.sleep(0.01)
    pytest.fail(f"did not come true within {within_s} s: {truth}")
