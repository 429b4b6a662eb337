"""The seven promises, kept by the real command line.

Nothing here believes the ledger about a ring: the rehearsal handler counts them, in another
process, and outlives its own death by a journal.
"""

import asyncio
import json
import signal
import socket
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any

import httpx
import pytest
from langgraph.runtime import Runtime
from redis.asyncio import Redis

from dispatcher.rehearsal.behaviours import MAGIC_NUMBERS
from orchestrator.analyst import RuleAnalyst
from orchestrator.nodes import Context, trigger_call
from orchestrator.state import Conversation, new_task
from shared import keys
from shared.answers import Answers
from shared.claim import Claimed, Terms
from shared.clock import SYSTEM_CLOCK
from shared.ledger import Act, Ledger
from shared.lifecycle import Decision, OrderState
from shared.order import CallOrder
from shared.progress import OrderProgress, did_it_ring
from shared.register import Register
from tests.conftest import NUMBER, MakeOrder, eventually
from tests.fakes.processes import Running, rehearsal, worker, workers

NUMBER_OF = {magic.name: magic.number for magic in MAGIC_NUMBERS}
SETTINGS: dict[str, object] = {
    "sweep_s": 0.1,
    "recover_s": 0.1,
    "quiet_period_s": 0.5,
    "backoff_cap_s": 0.2,
    "max_attempts": 1_000,
    "connect_timeout_s": 0.3,
    "read_timeout_s": 1.0,
    "lease_s": 2.7,
    "max_jobs": 5,
}
PROMISED: dict[str, tuple[tuple[str, ...], dict[str, object]]] = {
    "keyed": (("--no-lookup",), {"handler_honours_key": True}),
    "lookup": (("--unkeyed",), {"handler_answers_lookup": True}),
    "bare": (("--unkeyed", "--no-lookup", "--plain-errors"), {}),
}
LOST = Decision(OrderState.IN_DOUBT, "lease_ran_out", "not heard of again")
OVERDUE = Decision(OrderState.IN_DOUBT, "overdue_after_unanswered", "its time was up")


@dataclass
class Stage:
    """A rehearsal handler that can die and come back, and the settings to work with it."""

    url: str
    process: Running
    settings: dict[str, object]
    _client: httpx.AsyncClient
    _stack: AsyncExitStack
    _start: Callable[[], Any]

    async def rings(self) -> dict[str, int]:
        """Return how often each order rang, as the carrier counted."""
        count: dict[str, int] = (await self._client.get("/rings")).json()["orders"]
        return count

    async def sids(self, order: CallOrder) -> list[str]:
        found: list[str] = (await self._client.get(f"/rings/{order.order_id}")).json()["call_sids"]
        return found

    async def until_rung(self, total: int) -> None:
        async def rang() -> bool:
            return sum((await self.rings()).values()) >= total

        await eventually(rang, within_s=60)

    async def die_and_come_back(self) -> None:
        self.process.signal(signal.SIGKILL)
        await self.process.ended()
        self.process, _ = await self._stack.enter_async_context(self._start())


@pytest.fixture
def stage(tmp_path: Path) -> Callable[..., Any]:
    @asynccontextmanager
    async def set_stage(promised: str, *arguments: str) -> AsyncIterator[Stage]:
        with socket.socket() as door:
            door.bind(("127.0.0.1", 0))
            port = door.getsockname()[1]
        flags, known = PROMISED[promised]
        journal = ("--journal", str(tmp_path / "rings.jsonl"))

        def start() -> Any:
            return rehearsal(tmp_path, *flags, *journal, *arguments, port=port)

        async with AsyncExitStack() as stack:
            process, url = await stack.enter_async_context(start())
            client = await stack.enter_async_context(
                httpx.AsyncClient(base_url=url, trust_env=False)
            )
            yield Stage(url, process, SETTINGS | known, client, stack, start)

    return set_stage


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

    await eventually(nothing_to_do, within_s=30)


async def progress_of(ledger: Ledger, order: CallOrder) -> OrderProgress:
    progress = await ledger.progress(order.order_id)
    assert progress is not None
    return progress


async def test_promise_1_a_confirmed_order_is_enqueued_once_however_often_its_node_runs(
    stage: Callable[..., Any], store_url: str, redis: Redis, ledger: Ledger, tmp_path: Path
):
    now = SYSTEM_CLOCK.now()
    confirmed: Conversation = {
        **new_task("Order a pizza"),
        "thread_id": "thr_1",
        "owner": "ada",
        "user_name": "Ada",
        "order_id": "ord_confirmed_once",
        "target_phone_number": NUMBER,
        "final_instructions": "Order a large pepperoni pizza.",
        "decision": "yes",
        "order_confirmed_at": now.isoformat(),
        "order_expires_at": (now + timedelta(hours=1)).isoformat(),
    }
    context = Context(
        desk=ledger,
        answers=Answers(redis),
        analyst=RuleAnalyst("US"),
        clock=SYSTEM_CLOCK,
        await_call_s=0.0,
        order_lifetime_s=3600.0,
    )
    runtime = Runtime(context=context)
    for _ in range(3):
        assert (await trigger_call(confirmed, runtime))["handed_in"]
    await asyncio.gather(*(trigger_call(confirmed, runtime) for _ in range(20)))
    assert await redis.zrange(keys.QUEUE, 0, -1) == ["ord_confirmed_once"]

    async with stage("bare") as here, worker(store_url, here.url, tmp_path, **here.settings):
        await here.until_rung(1)
        await at_rest(redis)
        for _ in range(3):  # and after it has rung, it is still the same order
            await trigger_call(confirmed, runtime)
        await at_rest(redis)
        assert await here.rings() == {"ord_confirmed_once": 1}
    assert await redis.zcard(keys.ORDERS) == 1


@pytest.mark.parametrize("promised", PROMISED)
async def test_promise_2_an_order_rings_at_most_once_whatever_dies_and_whenever_it_dies(
    *,
    promised: str,
    stage: Callable[..., Any],
    store_url: str,
    redis: Redis,
    ledger: Ledger,
    tmp_path: Path,
    make_order: MakeOrder,
):
    faults = ("500-after", "reset-after", "reset-before", "half-body", "no-sid")
    drawn = [word for name in faults for word in ("--fault", f"{name}=0.05")]
    # Of many owners, because no order passes another one in doubt of the same owner and number.
    orders = [make_order(owner=f"owner-{n}") for n in range(40)]
    async with (
        stage(promised, "--accept-s", "0.05", "--seed", "7", *drawn) as here,
        AsyncExitStack() as stack,
    ):

        async def hire(count: int) -> list[Running]:
            crew = workers(count, store_url, here.url, tmp_path, **here.settings)
            return await stack.enter_async_context(crew)

        async def bury(running: Running) -> None:
            running.signal(signal.SIGKILL)
            await running.ended()

        first, second = await hire(2)
        for order in orders:
            await ledger.submit(order)
        await here.until_rung(4)
        await bury(first)
        await here.until_rung(8)
        await here.die_and_come_back()
        await here.until_rung(12)
        await bury(second)
        await hire(2)
        await at_rest(redis)

        rings = await here.rings()
        assert {order_id: count for order_id, count in rings.items() if count > 1} == {}
        for order in orders:
            progress = await progress_of(ledger, order)
            sids = await here.sids(order)
            if progress.state is OrderState.PLACED:
                assert sids == [progress.call_sid]
            else:
                assert (promised, progress.state) == ("bare", OrderState.IN_DOUBT)


async def test_promise_3_no_accepted_order_is_lost_each_ends_in_a_state_with_its_reason(
    *,
    stage: Callable[..., Any],
    store_url: str,
    redis: Redis,
    ledger: Ledger,
    register: Register,
    tmp_path: Path,
    make_order: MakeOrder,
):
    soon = SYSTEM_CLOCK.now() + timedelta(milliseconds=50)
    ends: dict[str, tuple[CallOrder, OrderState]] = {
        "placed": (make_order(owner="a"), OrderState.PLACED),
        "placed late": (make_order(target_phone_number=NUMBER_OF["slow"]), OrderState.PLACED),
        "refused": (make_order(target_phone_number=NUMBER_OF["refused"]), OrderState.REFUSED),
        "cancelled": (make_order(owner="b"), OrderState.CANCELLED),
        "expired": (make_order(owner="c", expires_at=soon), OrderState.EXPIRED),
        "unreadable": (make_order(owner="d"), OrderState.DEAD),
        "job lost": (make_order(owner="e"), OrderState.PLACED),
        "found": (make_order(target_phone_number=NUMBER_OF["half-body"]), OrderState.PLACED),
        "found refused": (
            make_order(target_phone_number=NUMBER_OF["done-unrung"]),
            OrderState.REFUSED,
        ),
    }
    for order, _ in ends.values():
        await ledger.submit(order)
    await ledger.cancel(ends["cancelled"][0].order_id, by="ada", why="not hungry any more")
    await redis.hset(keys.record(ends["unreadable"][0].order_id), "body", "{")  # type: ignore[misc]
    await redis.zrem(keys.QUEUE, ends["job lost"][0].order_id)
    await redis.delete(keys.WAKEUP)

    async def is_over() -> bool:
        return soon < SYSTEM_CLOCK.now()

    await eventually(is_over)
    async with (
        stage("lookup", "--slow-s", "0.5") as here,
        workers(2, store_url, here.url, tmp_path, **here.settings) as (dying, _),
    ):
        await here.until_rung(1)
        dying.signal(signal.SIGKILL)
        for order, state in ends.values():
            progress = await until(ledger, order, state)
            assert progress.ended
            assert progress.reason
            result = await ledger.result(order.order_id)
            assert result is not None
            assert (result.state, result.reason) == (state, progress.reason)
            rang = len(await here.sids(order))
            assert rang == (1 if state is OrderState.PLACED else 0)
            assert did_it_ring(progress).startswith("Yes" if rang else "No")
    counts = await register.counts()
    assert sum(counts.values()) == len(ends)


async def test_promise_4_what_is_surely_not_placed_is_tried_again_and_what_may_be_never_blindly(
    *,
    stage: Callable[..., Any],
    store_url: str,
    redis: Redis,
    ledger: Ledger,
    tmp_path: Path,
    make_order: MakeOrder,
):
    surely_not = [make_order(target_phone_number=NUMBER_OF["too-many"]), make_order(owner="a")]
    may_be = [
        make_order(target_phone_number=NUMBER_OF[name])
        for name in ("500-after", "hang-after", "reset-after", "half-body", "no-sid")
    ]

    async with (
        stage("bare") as here,
        worker(store_url, here.url, tmp_path, **here.settings) as only,
    ):
        here.process.signal(signal.SIGKILL)
        await here.process.ended()
        for order in surely_not:
            await ledger.submit(order)

        async def tried_twice() -> bool:
            return all([(await progress_of(ledger, one)).attempt >= 2 for one in surely_not])

        await eventually(tried_twice)
        await here.die_and_come_back()
        for order in surely_not:
            progress = await until(ledger, order, OrderState.PLACED)
            assert await here.sids(order) == [progress.call_sid]
        for order in may_be:
            await ledger.submit(order)
        for order in may_be:
            await until(ledger, order, OrderState.IN_DOUBT)
        await at_rest(redis)
        for order in may_be:
            assert (await progress_of(ledger, order)).attempt == 1
            assert len(await here.sids(order)) == 1
        assert only.alive


async def test_promise_5_state_and_call_sid_are_written_in_the_same_breath(
    stage: Callable[..., Any],
    store_url: str,
    redis: Redis,
    ledger: Ledger,
    tmp_path: Path,
    make_order: MakeOrder,
):
    orders = [make_order() for _ in range(20)]
    heard: list[tuple[str, str | None, str | None]] = []
    async with (
        stage("bare") as here,
        worker(store_url, here.url, tmp_path, **here.settings),
        redis.pubsub() as moves,
    ):
        await moves.subscribe(keys.MOVES)
        for order in orders:
            await ledger.submit(order)
        async with asyncio.timeout(60):
            async for message in moves.listen():
                if message["type"] != "message":
                    continue
                for move in json.loads(message["data"]):
                    record, result = keys.record(move["order_id"]), keys.result(move["order_id"])
                    async with redis.pipeline(transaction=True) as both:
                        both.hmget(record, ["state", "call_sid"])
                        both.get(result)
                        (state, sid), answer = await both.execute()
                    assert (state == "PLACED") is (sid is not None) is (answer is not None)
                    if move["state"] == "PLACED":
                        assert json.loads(answer)["call_sid"] == sid
                        heard.append((move["order_id"], state, sid))
                if len(heard) == len(orders):
                    break
        for order_id, state, sid in heard:
            (order,) = (order for order in orders if order.order_id == order_id)
            assert (state, [sid]) == ("PLACED", await here.sids(order))


async def test_promise_5_only_the_worker_that_holds_the_lease_writes(
    ledger: Ledger, make_order: MakeOrder
):
    order = make_order()
    await ledger.submit(order)

    async def claim(worker: str, lease_s: float) -> Claimed | None:
        answer = await ledger.claim(order.order_id, Terms(worker, lease_s, LOST, OVERDUE))
        return answer if isinstance(answer, Claimed) else None

    first = await claim("w-1", 0.01)
    assert first is not None

    async def given_up() -> bool:
        return await ledger.recover(order.order_id, LOST, by="w-2")

    await eventually(given_up)
    await ledger.resolve(order.order_id, call_sid=None, by="ada", why="I asked: nothing rang.")
    second = await claim("w-2", 60)
    assert second is not None
    placed = Decision(OrderState.PLACED, "placed", "the handler named the call", call_sid="CAold")
    act = await ledger.settle(order.order_id, first.token, placed, evidence={}, by="w-1")
    assert act is Act.LOST
    progress = await progress_of(ledger, order)
    assert (progress.state, progress.call_sid) == (OrderState.SENDING, None)
    assert await ledger.result(order.order_id) is None


async def test_promise_6_in_doubt_we_say_so_and_find_out_if_the_handler_lets_us(
    stage: Callable[..., Any],
    store_url: str,
    ledger: Ledger,
    register: Register,
    tmp_path: Path,
    make_order: MakeOrder,
):
    order = make_order(target_phone_number=NUMBER_OF["reset-after"])
    async with stage("lookup") as here, worker(store_url, here.url, tmp_path, **here.settings):
        await ledger.submit(order)
        progress = await until(ledger, order, OrderState.PLACED)
        assert await here.sids(order) == [progress.call_sid]
    states = [move.to_state for move in await register.history(order.order_id)]
    assert states == ["QUEUED", "SENDING", "IN_DOUBT", "PLACED"]


async def test_promise_6_in_doubt_we_say_so_and_else_ask_a_person(
    *,
    stage: Callable[..., Any],
    store_url: str,
    redis: Redis,
    ledger: Ledger,
    register: Register,
    tmp_path: Path,
    make_order: MakeOrder,
):
    order = make_order(target_phone_number=NUMBER_OF["reset-after"])
    async with stage("bare") as here, worker(store_url, here.url, tmp_path, **here.settings):
        await ledger.submit(order)
        progress = await until(ledger, order, OrderState.IN_DOUBT)
        assert did_it_ring(progress) == "It may have rung: an attempt went unanswered."
        result = await ledger.result(order.order_id)
        assert result is not None
        assert result.state is OrderState.IN_DOUBT
        await at_rest(redis)
        (sid,) = await here.sids(order)
    await ledger.resolve(order.order_id, call_sid=sid, by="ada", why="I saw it at the carrier.")
    progress = await progress_of(ledger, order)
    assert (progress.state, progress.call_sid) == (OrderState.PLACED, sid)
    last = (await register.history(order.order_id))[-1]
    assert (last.by, last.reason) == ("ada", "I saw it at the carrier.")


async def test_promise_7_no_number_name_or_instruction_appears_in_a_log_a_metric_or_a_jobs_arguments(  # noqa: E501  (the promise)
    *,
    stage: Callable[..., Any],
    store_url: str,
    redis: Redis,
    ledger: Ledger,
    tmp_path: Path,
    make_order: MakeOrder,
):
    names = ["busy", "refused", "too-many", "500-before", "500-after", "reset-after", "no-sid"]
    numbers = [NUMBER, *(NUMBER_OF[name] for name in names)]
    orders = [
        make_order(
            target_phone_number=number,
            user_name="Ada Lovelace",
            final_instructions="Order a pepperoni pizza.",
            gathered_details={"allergy": "walnuts"},
        )
        for number in numbers
    ]
    unreadable = make_order(owner="other", user_name="Ada Lovelace")
    private = ["Ada", "Lovelace", "pepperoni", "walnuts", *(number[2:] for number in numbers)]

    def gives_away(text: str) -> list[str]:
        return [secret for secret in private if secret in text]

    for order in (*orders, unreadable):
        await ledger.submit(order)
        envelope = await redis.get(keys.job(order.order_id))
        assert json.loads(envelope)["a"] == [order.order_id]
        assert gives_away(envelope) == []
    spoilt = unreadable.model_dump_json().replace('"schema_version":1', '"schema_version":"1?"')
    await redis.hset(keys.record(unreadable.order_id), "body", spoilt)  # type: ignore[misc]
    moved: list[str] = []
    async with stage("bare") as here, redis.pubsub() as moves:
        await moves.subscribe(keys.MOVES)
        assert await moves.get_message(timeout=5)  # that we are subscribed
        loud = here.settings | {"log_level": "DEBUG"}
        async with worker(store_url, here.url, tmp_path, **loud) as only:
            for order in orders:
                await until(
                    ledger, order, OrderState.PLACED, OrderState.REFUSED, OrderState.IN_DOUBT
                )
            await until(ledger, unreadable, OrderState.DEAD)
            health = [await redis.get(key) async for key in redis.scan_iter(keys.worker("*"))]
            assert health
            only.signal(signal.SIGTERM)
            assert await only.ended() == 0
            said = only.log + only.told + here.process.log + here.process.told
            assert "order.settled" in said
        while message := await moves.get_message(ignore_subscribe_messages=True, timeout=0.01):
            moved.append(message["data"])
    assert moved
    names_of_keys = [key async for key in redis.scan_iter("*")]
    for text in (said, *map(str, health), *moved, *names_of_keys):
        assert gives_away(text) == []
