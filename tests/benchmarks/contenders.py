"""Three ways for an order to reach the call handler: ours, a direct POST, stock arq.

Each can carry one order alone (how long it takes) or many together (how many a second, putting
them into the queue included), and vouches that every order was answered and none was sent twice.
"""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from dataclasses import dataclass
from time import perf_counter
from typing import Final, Protocol, TypeVar

import httpx
from arq.constants import result_key_prefix
from arq.jobs import deserialize_result

from shared import keys
from shared.answers import Answers
from shared.order import CallOrder
from tests.benchmarks.all_there import all_there
from tests.benchmarks.redis_counters import Counters
from tests.benchmarks.stage import BenchmarkFailed, Stage
from tests.benchmarks.wishes import body, wishes

IN_FLIGHT: Final = 50
WARM_UP: Final = 200
PATIENCE_S: Final = 180.0

Thing = TypeVar("Thing")
Made = TypeVar("Made")


@dataclass(frozen=True)
class Run:
    """One run of many orders together."""

    orders: int
    took_s: float
    spent: Counters | None = None
    """In the store; None without one."""

    @property
    def orders_per_s(self) -> float:
        return self.orders / self.took_s


class Contender(Protocol):
    name: str

    def turn(self) -> contextlib.AbstractAsyncContextManager[None]:
        """While it lasts, its processes run."""
        ...

    async def alone(self, order: CallOrder) -> str:
        """Carry one order; return the call_sid."""
        ...

    async def carry(self, orders: Sequence[CallOrder]) -> int:
        """Carry many; return how often the store was only looked at."""
        ...

    async def call_sids(self, orders: Sequence[CallOrder]) -> list[str]: ...

    async def counters(self) -> Counters | None: ...


async def together(contender: Contender, stage: Stage, number: int) -> Run:
    """Let `contender`, whose turn it is, carry `number` orders; check what came of each."""
    await checked(contender, stage, wishes(WARM_UP))
    return await checked(contender, stage, wishes(number))


async def checked(contender: Contender, stage: Stage, orders: Sequence[CallOrder]) -> Run:
    counted, before = (await stage.tally())["orders"], await contender.counters()
    began = perf_counter()
    looks = await contender.carry(orders)
    took_s = perf_counter() - began
    after = await contender.counters()
    answered = await contender.call_sids(orders)
    sent = (await stage.tally())["orders"] - counted
    check(contender.name, len(orders), answered, sent)
    spent = after.since(before, asked=looks) if after and before else None
    return Run(len(orders), took_s, spent)


def check(name: str, orders: int, call_sids: Sequence[str], sent: int) -> None:
    """Hold against each other what was ordered, answered and sent.

    Raises:
        BenchmarkFailed: an order was lost, or sent twice.
    """
    if not orders == len(call_sids) == len(set(call_sids)) == sent:
        raise BenchmarkFailed(
            f"{name}: {orders} orders, {len(set(call_sids))} call_sids, {sent} requests"
        )


class Ours:
    """Ringonce: submit to the ledger, workers, the result key."""

    name = "ours"

    def __init__(self, stage: Stage, answers: Answers | None = None) -> None:
        """`answers`, where a conversation would wait, is needed by `alone` only."""
        self._ledger, self._fleet, self._answers = stage.ledger, stage.ours, answers

    @contextlib.asynccontextmanager
    async def turn(self) -> AsyncIterator[None]:
        self._fleet.resume()
        yield
        self._fleet.pause()

    async def alone(self, order: CallOrder) -> str:
        assert self._answers is not None
        await self._ledger.submit(order)
        result = await self._answers.wait(order.order_id, PATIENCE_S)
        if result is None or result.call_sid is None:
            raise BenchmarkFailed(f"ours: {result}")
        return result.call_sid

    async def carry(self, orders: Sequence[CallOrder]) -> int:
        await in_flight(self._ledger.submit, orders)
        results = [keys.result(order.order_id) for order in orders]
        return await all_there(self._ledger.redis, results, within_s=PATIENCE_S)

    async def call_sids(self, orders: Sequence[CallOrder]) -> list[str]:
        results = await self._ledger.results([order.order_id for order in orders])
        return [result.call_sid for result in results if result.call_sid is not None]

    async def counters(self) -> Counters:
        return await Counters.read(self._ledger.redis)


class Direct:
    """One httpx client at its defaults: no queue, and no promise either."""

    name = "direct"

    def __init__(self, stage: Stage) -> None:
        self._url = f"{stage.handler}/order"
        self._client = httpx.AsyncClient(trust_env=False)
        self._sids: list[str] = []

    @contextlib.asynccontextmanager
    async def turn(self) -> AsyncIterator[None]:
        yield

    async def alone(self, order: CallOrder) -> str:
        answer = await self._client.post(self._url, json=body(order))
        return str(answer.json()["call_sid"])

    async def carry(self, orders: Sequence[CallOrder]) -> int:
        self._sids = await in_flight(self.alone, orders)
        return 0

    async def call_sids(self, orders: Sequence[CallOrder]) -> list[str]:  # noqa: ARG002
        return self._sids

    async def counters(self) -> None:
        return None

    async def aclose(self) -> None:
        await self._client.aclose()


class StockArq:
    """arq without us: enqueue_job, its worker, its result key."""

    name = "arq"

    def __init__(self, stage: Stage) -> None:
        self._pool, self._fleet = stage.arq_pool, stage.arq

    @contextlib.asynccontextmanager
    async def turn(self) -> AsyncIterator[None]:
        self._fleet.resume()
        yield
        self._fleet.pause()

    async def alone(self, order: CallOrder) -> str:
        job = await self._pool.enqueue_job("place", body(order))
        assert job is not None
        return str(await job.result(timeout=PATIENCE_S, poll_delay=0.001))

    async def enqueue(self, order: CallOrder) -> None:
        await self._pool.enqueue_job("place", body(order), _job_id=order.order_id)

    async def carry(self, orders: Sequence[CallOrder]) -> int:
        await in_flight(self.enqueue, orders)
        results = [result_key_prefix + order.order_id for order in orders]
        return await all_there(self._pool, results, within_s=PATIENCE_S)

    async def call_sids(self, orders: Sequence[CallOrder]) -> list[str]:
        found = await self._pool.mget([result_key_prefix + order.order_id for order in orders])
        results = [deserialize_result(answer) for answer in found if answer is not None]
        return [str(result.result) for result in results if result.success]

    async def counters(self) -> Counters:
        return await Counters.read(self._pool)


@contextlib.asynccontextmanager
async def contenders(
    stage: Stage, answers: Answers | None = None
) -> AsyncIterator[list[Contender]]:
    """Open all three, their workers paused: each runs in its turn."""
    direct = Direct(stage)
    stage.ours.pause()
    stage.arq.pause()
    try:
        yield [Ours(stage, answers), direct, StockArq(stage)]
    finally:
        await direct.aclose()


async def in_flight(
    act: Callable[[Thing], Awaitable[Made]], things: Sequence[Thing], at_once: int = IN_FLIGHT
) -> list[Made]:
    """Do `act` to all, at most `at_once` at a time."""
    gate = asyncio.Semaphore(at_once)

    async def one(thing: Thing) -> Made:
        async with gate:
            return await act(thing)

    return await asyncio.gather(*(one(thing) for thing in things))
