"""Real workers, real deaths: what becomes of orders when processes, stores and handlers fail."""

import asyncio
import signal
import socket
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from datetime import timedelta
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from redis.asyncio import Redis

from dispatcher.rehearsal.behaviours import MAGIC_NUMBERS
from dispatcher.rehearsal.carrier import Carrier
from dispatcher.rehearsal.handler import Promises, RehearsalHandler
from dispatcher.rehearsal.server import rehearsal_server
from shared import keys
from shared.ledger import Ledger
from shared.lifecycle import OrderState
from shared.order import CallOrder
from shared.progress import OrderProgress
from shared.register import Register
from tests.conftest import MakeOrder, eventually
from tests.fakes.fault_proxy import fault_proxy
from tests.fakes.processes import worker, workers

NUMBER_OF = {magic.name: magic.number for magic in MAGIC_NUMBERS}
SECOND_NUMBER = "+14155550100"
QUICK: dict[str, object] = {
    "sweep_s": 0.1,
    "recover_s": 0.1,
    "quiet_period_s": 0.5,
    "backoff_cap_s": 0.2,
    "max_attempts": 1_000,
}
SHORT_LEASE: dict[str, object] = {
    **QUICK,
    "connect_timeout_s": 0.3,
    "read_timeout_s": 0.8,
    "lease_s": 2.5,
}
PROMISED: dict[str, dict[str, object]] = {
    "keyed": {"handler_honours_key": True},
    "lookup": {"handler_answers_lookup": True},
    "bare": {},
}


class Gate:
    """A sleep that ends when the test says so."""

    def __init__(self) -> None:
        self.reached = asyncio.Event()
        self.opened = asyncio.Event()

    async def sleep(self, _seconds: float) -> None:
        self.reached.set()
        await self.opened.wait()


@asynccontextmanager
async def rehearsing(
    promised: str = "bare", *, port: int = 0, **how: Any
) -> AsyncIterator[tuple[str, Carrier]]:
    promises = Promises(keyed=promised == "keyed", lookup=promised == "lookup")
    carrier = Carrier()
    async with rehearsal_server(
        RehearsalHandler(carrier, promises=promises, **how), port=port
    ) as url:
        yield url, carrier


def standing(
    ledger: Ledger, order: CallOrder, *states: OrderState
) -> Callable[[], Awaitable[OrderProgress | None]]:
    async def look() -> OrderProgress | None:
        progress = await ledger.progress(order.order_id)
        return progress if progress is not None and progress.state in states else None

    return look


async def until(ledger: Ledger, order: CallOrder, *states: OrderState) -> OrderProgress:
    found = await eventually(standing(ledger, order, *states), within_s=60)
    assert isinstance(found, OrderProgress)
    return found


async def at_rest(redis: Redis) -> None:
    """Wait until nobody is going to do anything any more by himself."""

    async def nothing_to_do() -> bool:
        async with redis.pipeline(transaction=True) as at_once:  # or one slips by between the looks
            for index in (keys.QUEUE, keys.LEASES, keys.DOUBTS):
                at_once.zcard(index)
            return not any(await at_once.execute())

    await eventually(nothing_to_do, within_s=60)


def is_true(progress: OrderProgress, carrier: Carrier) -> bool:
    return [progress.call_sid] == carrier.call_sids(progress.order_id)


# Death


@pytest.mark.parametrize("promised", PROMISED)
async def test_a_worker_killed_while_it_sends_never_makes_a_second_ring(
    *,
    promised: str,
    store_url: str,
    redis: Redis,
    ledger: Ledger,
    tmp_path: Path,
    make_order: MakeOrder,
):
    gate = Gate()
    unrung = make_order(target_phone_number=NUMBER_OF["slow"])
    rung = make_order(target_phone_number=NUMBER_OF["hang-after"])
    settings = SHORT_LEASE | PROMISED[promised]
    async with rehearsing(promised, sleep=gate.sleep) as (url, carrier):

        async def rang() -> bool:
            return carrier.rings(rung.order_id) == 1

        async with worker(store_url, url, tmp_path, **settings) as first:
            await ledger.submit(unrung)
            await ledger.submit(rung)
            await eventually(gate.reached.wait)
            await eventually(rang)
            first.signal(signal.SIGKILL)
            assert await first.ended() == -signal.SIGKILL
        gate.opened.set()  # the handler goes on with what the dead had sent
        async with worker(store_url, url, tmp_path, **settings) as second:
            last = OrderState.IN_DOUBT if promised == "bare" else OrderState.PLACED
            for order in (unrung, rung):
                progress = await until(ledger, order, last)
                if promised != "bare":
                    assert is_true(progress, carrier)
            await at_rest(redis)
            assert second.alive
        assert carrier.count()["orders"] == {unrung.order_id: 1, rung.order_id: 1}


async def test_a_worker_asked_to_end_finishes_what_it_sends(
    store_url: str, ledger: Ledger, tmp_path: Path, make_order: MakeOrder
):
    arrived = asyncio.Event()

    async def sleep(seconds: float) -> None:
        arrived.set()
        await asyncio.sleep(seconds)

    order = make_order(target_phone_number=NUMBER_OF["slow"])
    async with (
        rehearsing(sleep=sleep, slow_s=1.0) as (url, carrier),
        worker(store_url, url, tmp_path, **QUICK) as ending,
    ):
        await ledger.submit(order)
        await arrived.wait()
        ending.signal(signal.SIGTERM)
        assert await ending.ended() == 0
        assert is_true(await until(ledger, order, OrderState.PLACED), carrier)


async def test_a_worker_asked_to_end_while_idle_ends_and_is_not_listed_any_more(
    store_url: str, redis: Redis, tmp_path: Path
):
    async def listed() -> list[str]:
        return [name async for name in redis.scan_iter(keys.worker("*"))]

    async with worker(store_url, "http://127.0.0.1:9", tmp_path, **QUICK) as idle:
        assert await eventually(listed)
        idle.signal(signal.SIGTERM)
        assert await idle.ended() == 0
        assert await listed() == []


@pytest.mark.parametrize("promised", ["lookup", "bare"])
async def test_a_worker_paused_past_its_lease_rings_once_and_the_truth_wins(
    promised: str, store_url: str, ledger: Ledger, tmp_path: Path, make_order: MakeOrder
):
    gate, order = Gate(), make_order()
    settings = SHORT_LEASE | PROMISED[promised]
    async with (
        rehearsing(promised, accept_s=1, sleep=gate.sleep) as (url, carrier),
        workers(2, store_url, url, tmp_path, **settings) as crew,
    ):
        await ledger.submit(order)
        await gate.reached.wait()
        sending = await until(ledger, order, OrderState.SENDING)
        (paused,) = (running for running in crew if running.holds(sending.worker))
        paused.signal(signal.SIGSTOP)
        gate.opened.set()
        await until(ledger, order, OrderState.IN_DOUBT, OrderState.PLACED)
        paused.signal(signal.SIGCONT)
        await paused.logs("order.settled")
        if promised == "lookup":
            assert is_true(await until(ledger, order, OrderState.PLACED), carrier)
        else:
            progress = await until(ledger, order, OrderState.IN_DOUBT, OrderState.PLACED)
            assert progress.state is OrderState.IN_DOUBT or is_true(progress, carrier)
        assert carrier.rings(order.order_id) == 1
        assert all(running.alive for running in crew)


async def test_an_order_that_takes_longer_than_a_lease_is_held_as_long_as_it_takes(
    *,
    store_url: str,
    redis: Redis,
    ledger: Ledger,
    register: Register,
    tmp_path: Path,
    make_order: MakeOrder,
):
    gate, order = Gate(), make_order()
    settings = {**QUICK, "lease_s": 2, "read_timeout_s": 60}
    async with (
        rehearsing(accept_s=1, sleep=gate.sleep) as (url, carrier),
        worker(store_url, url, tmp_path, **settings),
    ):
        await ledger.submit(order)
        await gate.reached.wait()
        until_ms = await redis.zscore(keys.LEASES, order.order_id)

        async def two_leases_later() -> bool:
            return bool(await redis.zscore(keys.LEASES, order.order_id) > until_ms + 4000)

        await eventually(two_leases_later, within_s=60)
        gate.opened.set()
        assert is_true(await until(ledger, order, OrderState.PLACED), carrier)
    moves = [move.to_state for move in await register.history(order.order_id)]
    assert moves == ["QUEUED", "SENDING", "PLACED"]


async def test_an_order_that_was_put_off_starts_when_it_is_due_and_not_at_the_next_sweep(
    store_url: str, ledger: Ledger, tmp_path: Path, make_order: MakeOrder
):
    order = make_order(target_phone_number=NUMBER_OF["too-many"])  # to be tried again in a second
    settings = {**QUICK, "sweep_s": 3600}
    async with rehearsing() as (url, carrier), worker(store_url, url, tmp_path, **settings):
        await ledger.submit(order)
        assert is_true(await until(ledger, order, OrderState.PLACED), carrier)


@pytest.mark.parametrize("lost", [False, True], ids=["late", "lost"])
async def test_a_worker_asked_to_end_while_it_is_being_given_orders_sends_them_first(
    *, lost: bool, store_url: str, ledger: Ledger, tmp_path: Path, make_order: MakeOrder
):
    order = make_order()
    async with (
        rehearsing() as (url, carrier),
        fault_proxy(store_url) as proxy,
        worker(proxy.url, url, tmp_path, **QUICK) as ending,
    ):
        proxy.delay_s = 0.5
        await ledger.submit(order)
        await until(ledger, order, OrderState.SENDING)
        if lost:
            proxy.cut()
        ending.signal(signal.SIGTERM)  # the answer to its claim is still on its way
        proxy.delay_s = 0
        assert await ending.ended() == 0
        assert is_true(await until(ledger, order, OrderState.PLACED), carrier)


# The handler


async def test_orders_wait_for_a_handler_that_is_down(
    store_url: str, ledger: Ledger, tmp_path: Path, make_order: MakeOrder
):
    with socket.socket() as door:
        door.bind(("127.0.0.1", 0))
        port = door.getsockname()[1]
    orders = [make_order() for _ in range(3)]

    async def tried_thrice() -> bool:
        found = [await ledger.progress(order.order_id) for order in orders]
        return all(progress is not None and progress.attempt >= 3 for progress in found)

    async with worker(store_url, f"http://127.0.0.1:{port}", tmp_path, **QUICK):
        for order in orders:
            await ledger.submit(order)
        await eventually(tried_thrice)
        async with rehearsing(port=port) as (_, carrier):
            for order in orders:
                assert is_true(await until(ledger, order, OrderState.PLACED), carrier)


async def test_a_handler_that_says_when_to_come_back_is_left_in_peace_until_then(
    store_url: str, ledger: Ledger, register: Register, tmp_path: Path, make_order: MakeOrder
):
    order = make_order(target_phone_number=NUMBER_OF["too-many"])
    async with rehearsing() as (url, carrier), worker(store_url, url, tmp_path, **QUICK):
        await ledger.submit(order)
        placed = await until(ledger, order, OrderState.PLACED)
        assert is_true(placed, carrier)
    assert (placed.attempt, placed.spent) == (3, 1)
    moves = await register.history(order.order_id)
    waits = [claimed.at - told.at for told, claimed in pairwise(moves) if told.rule == "busy"]
    assert len(waits) == 2
    assert min(waits) >= timedelta(seconds=1)


async def test_an_answer_without_a_sid_is_in_doubt_and_the_evidence_is_kept(
    *,
    store_url: str,
    redis: Redis,
    ledger: Ledger,
    register: Register,
    tmp_path: Path,
    make_order: MakeOrder,
):
    order = make_order(target_phone_number=NUMBER_OF["no-sid"])
    async with rehearsing() as (url, carrier), worker(store_url, url, tmp_path, **QUICK):
        await ledger.submit(order)
        progress = await until(ledger, order, OrderState.IN_DOUBT)
        await at_rest(redis)
        assert carrier.rings(order.order_id) == 1
    assert progress.reason == "200 without a call_sid"
    result = await ledger.result(order.order_id)
    assert result is not None
    assert result.state is OrderState.IN_DOUBT
    evidence = (await register.history(order.order_id))[-1].evidence
    assert evidence is not None
    assert evidence["outcome"] == "Unanswered"
    assert (evidence["wire"]["status"], evidence["wire"]["excerpt"]) == (200, "done")
    assert evidence["wire"]["request_left"] is True


# The store


async def test_a_record_nobody_can_read_ends_dead_without_a_call(
    store_url: str, redis: Redis, ledger: Ledger, tmp_path: Path, make_order: MakeOrder
):
    poison, after = make_order(), make_order()
    await ledger.submit(poison)
    record: Any = redis.hset(keys.record(poison.order_id), "body", "{not json")
    await record
    async with rehearsing() as (url, carrier), worker(store_url, url, tmp_path, **QUICK) as alive:
        dead = await until(ledger, poison, OrderState.DEAD)
        await ledger.submit(after)
        assert is_true(await until(ledger, after, OrderState.PLACED), carrier)
        assert carrier.rings(poison.order_id) == 0
        assert alive.alive
    assert dead.reason is not None
    assert "record" in dead.reason


async def test_a_store_that_is_away_neither_kills_a_worker_nor_loses_or_repeats_an_order(
    store_url: str, ledger: Ledger, tmp_path: Path, make_order: MakeOrder
):
    gate, sent, waiting = Gate(), make_order(), make_order(target_phone_number=SECOND_NUMBER)
    settings = {**QUICK, "store_patience_s": 0.3}

    async with (
        rehearsing(accept_s=1, sleep=gate.sleep) as (url, carrier),
        fault_proxy(store_url) as proxy,
        worker(proxy.url, url, tmp_path, **settings) as alive,
    ):

        async def rang() -> bool:
            return carrier.rings(sent.order_id) == 1

        await ledger.submit(sent)
        await gate.reached.wait()
        await proxy.refuse()
        await ledger.submit(waiting)
        gate.opened.set()
        await eventually(rang)
        await alive.logs("store.away", times=10)  # every loop of it has noticed
        await proxy.accept()
        for order in (sent, waiting):
            assert is_true(await until(ledger, order, OrderState.PLACED), carrier)
        assert alive.alive


async def test_connections_to_the_store_cut_again_and_again_cost_no_order_and_no_ring(
    store_url: str, ledger: Ledger, tmp_path: Path, make_order: MakeOrder
):
    orders = [make_order() for _ in range(40)]
    async with (
        rehearsing(accept_s=0.02) as (url, carrier),
        fault_proxy(store_url) as proxy,
        worker(proxy.url, url, tmp_path, **QUICK, max_jobs=5) as alive,
    ):
        proxy.delay_s = 0.002

        def more_than(rings: int) -> Callable[[], Awaitable[bool]]:
            async def rang() -> bool:
                return int(carrier.count()["total"]) > rings

            return rang

        for order in orders:
            await ledger.submit(order)
        for rings in range(0, len(orders), 4):
            await eventually(more_than(rings), within_s=60)
            proxy.cut()
        for order in orders:
            assert is_true(await until(ledger, order, OrderState.PLACED), carrier)
        assert alive.alive


# Hints, strangers, crowds


async def test_a_wake_up_that_is_lost_costs_no_more_than_a_sweep(
    store_url: str, redis: Redis, ledger: Ledger, tmp_path: Path, make_order: MakeOrder
):
    orders: dict[str, CallOrder] = {}

    async def is_waiting() -> bool:
        return int((await redis.info("clients"))["blocked_clients"]) >= 2

    async with rehearsing() as (url, carrier), worker(store_url, url, tmp_path, **QUICK):
        # Whoever waits longest is served first, and the worker asks anew at every sweep.
        asking: Any = redis.blmpop(60, 1, keys.WAKEUP, direction="RIGHT", count=1)  # type: ignore[arg-type]
        thief = asyncio.ensure_future(asking)
        await eventually(is_waiting)

        async def stolen() -> CallOrder | None:
            order = make_order()
            orders[order.order_id] = order
            await ledger.submit(order)
            await until(ledger, order, OrderState.PLACED)
            return orders[thief.result()[1][0]] if thief.done() else None

        order = await eventually(stolen, within_s=60)
        assert is_true(await until(ledger, order, OrderState.PLACED), carrier)


async def test_a_flood_of_wake_ups_does_not_hide_an_order_that_is_due(
    store_url: str, redis: Redis, ledger: Ledger, tmp_path: Path, make_order: MakeOrder
):
    order = make_order(target_phone_number=NUMBER_OF["500-before"])  # comes due without a wake-up

    ebb = asyncio.Event()

    async def flood() -> None:
        nobody = [f"ord_nobody{n:06}" for n in range(10_000)]
        while not ebb.is_set():
            if await redis.llen(keys.WAKEUP) < len(nobody) // 2:  # type: ignore[misc]
                await redis.rpush(keys.WAKEUP, *nobody)  # type: ignore[misc]
            await asyncio.sleep(0.01)

    async with rehearsing() as (url, carrier), worker(store_url, url, tmp_path, **QUICK):
        flooding = asyncio.create_task(flood())
        try:
            await ledger.submit(order)
            assert is_true(await until(ledger, order, OrderState.PLACED), carrier)
        finally:
            ebb.set()
            await flooding


async def test_a_stranger_in_arqs_queue_is_thrown_out(
    store_url: str, redis: Redis, ledger: Ledger, tmp_path: Path, make_order: MakeOrder
):
    strangers = {f"ord_stranger{n}": 0 for n in range(120)}
    await redis.zadd(keys.QUEUE, strangers)
    order = make_order()
    async with rehearsing() as (url, carrier), worker(store_url, url, tmp_path, **QUICK) as alive:
        await ledger.submit(order)
        assert is_true(await until(ledger, order, OrderState.PLACED), carrier)
        await at_rest(redis)
        assert alive.alive
    assert carrier.count()["total"] == 1


async def test_two_workers_share_two_hundred_orders_and_each_rings_once(
    store_url: str, redis: Redis, ledger: Ledger, tmp_path: Path, make_order: MakeOrder
):
    orders = [make_order() for _ in range(200)]
    async with (
        rehearsing(accept_s=0.02) as (url, carrier),
        workers(2, store_url, url, tmp_path, **QUICK, max_jobs=20) as crew,
    ):
        await asyncio.gather(*(ledger.submit(order) for order in orders))
        found = [await until(ledger, order, OrderState.PLACED) for order in orders]
        await at_rest(redis)
        assert all(running.alive for running in crew)
    assert all(is_true(progress, carrier) for progress in found)
    assert carrier.count()["orders"] == {order.order_id: 1 for order in orders}
