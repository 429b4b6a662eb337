"""All who wait in one process wait at one subscription, and miss nothing whatever is lost."""

import asyncio
import json
from collections.abc import AsyncIterator

import pytest
from redis.asyncio import Redis

from shared import answers as answers_module
from shared import keys
from shared.answers import Answers
from shared.ledger import Ledger
from shared.progress import Result
from shared.redis_pool import CONNECTIONS, ledger_client
from tests.conftest import MakeOrder, eventually
from tests.fakes.fault_proxy import fault_proxy

HOUR = 3600.0


@pytest.fixture
async def answers(redis: Redis, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Answers]:
    """Answers that have subscribed, looked at everything, and will not sweep."""
    monkeypatch.setattr(answers_module, "SWEEP_S", HOUR)
    async with Answers(redis) as opened:
        await listening(redis)
        hearing = opened.expect("ord_probe")
        await write(redis, "ord_probe")
        await tell(redis, ("ord_probe", "PLACED"))
        await asyncio.wait_for(hearing, 10)
        yield opened


async def listening(redis: Redis, listeners: int = 1) -> None:
    async def so_many() -> bool:
        [(_, count)] = await redis.pubsub_numsub(keys.MOVES)
        return bool(count == listeners)

    await eventually(so_many)


async def write(redis: Redis, order_id: str, state: str = "PLACED") -> None:
    """Write an answer, and tell nobody."""
    told = {"order_id": order_id, "state": state, "rule": "r", "reason": "because"}
    await redis.set(keys.result(order_id), json.dumps(told))


async def tell(redis: Redis, *moves: tuple[str, str]) -> None:
    told = [{"order_id": order_id, "state": state} for order_id, state in moves]
    await redis.publish(keys.MOVES, json.dumps(told))


async def waited_for(answers: Answers, order_id: str) -> asyncio.Task[Result | None]:
    """Wait for an order, and let the first look, which finds nothing, be over."""
    waiting = asyncio.create_task(answers.wait(order_id, HOUR))
    await first_look_over(answers)
    return waiting


async def nothing_is_left(answers: Answers) -> None:
    async def empty() -> bool:
        return not answers._expected and not answers._due

    await eventually(empty)


async def first_look_over(answers: Answers) -> None:
    looked = answers.expect("ord_probe")
    await write(answers._redis, "ord_probe")
    answers._look_at(["ord_probe"])
    await asyncio.wait_for(looked, 10)
    await answers._redis.delete(keys.result("ord_probe"))


async def test_an_answer_that_is_there_already_is_found_without_a_word(
    answers: Answers, redis: Redis
):
    await write(redis, "ord_1")
    for within_s in (0, HOUR):
        result = await asyncio.wait_for(answers.wait("ord_1", within_s), 10)
        assert result is not None
        assert result.state == "PLACED"


async def test_no_answer_is_none_after_the_time_that_was_given(answers: Answers):
    assert await answers.wait("ord_1", 0) is None
    assert await answers.wait("ord_1", 0.05) is None
    await nothing_is_left(answers)


async def test_a_settled_order_wakes_who_waits_for_it(
    answers: Answers, ledger: Ledger, make_order: MakeOrder
):
    order = make_order()
    await ledger.submit(order)
    waiting = await waited_for(answers, order.order_id)
    await ledger.cancel(order.order_id, by="me", why="no appetite")
    result = await asyncio.wait_for(waiting, 10)
    assert result is not None
    assert (result.order_id, result.state) == (order.order_id, "CANCELLED")


async def test_several_wait_for_the_same_order_and_one_who_goes_away_takes_nobody_along(
    answers: Answers, redis: Redis
):
    waiting = [await waited_for(answers, "ord_1") for _ in range(3)]
    waiting[0].cancel()
    await asyncio.wait(waiting[:1])
    await write(redis, "ord_1")
    await tell(redis, ("ord_0", "PLACED"), ("ord_1", "PLACED"))
    assert all(await asyncio.wait_for(asyncio.gather(*waiting[1:]), 10))
    assert waiting[0].cancelled()
    await nothing_is_left(answers)


async def test_who_goes_away_leaves_nothing_behind(answers: Answers):
    waiting = [await waited_for(answers, f"ord_{number}") for number in range(20)]
    for one in waiting:
        one.cancel()
    await asyncio.wait(waiting)
    await nothing_is_left(answers)


async def test_a_move_that_is_no_answer_and_a_word_that_is_none_disturb_nobody(
    answers: Answers, redis: Redis
):
    waiting = await waited_for(answers, "ord_1")
    for said in ("{", "[1]", '{"order_id": 1}', '[{"order_id": "ord_1"}]'):
        await redis.publish(keys.MOVES, said)
    await tell(redis, ("ord_1", "SENDING"), ("ord_2", "PLACED"))
    await write(redis, "ord_1")
    await tell(redis, ("ord_1", "PLACED"))
    assert await asyncio.wait_for(waiting, 10)


async def test_an_answer_that_cannot_be_read_keeps_no_other_from_being_read(
    answers: Answers, redis: Redis
):
    odd, waiting = await waited_for(answers, "ord_odd"), await waited_for(answers, "ord_1")
    await write(redis, "ord_odd", state="NO_STATE_WE_KNOW")
    await write(redis, "ord_1")
    await tell(redis, ("ord_odd", "PLACED"), ("ord_1", "PLACED"))
    assert await asyncio.wait_for(waiting, 10)
    assert not odd.done()


async def test_an_answer_nobody_was_told_of_is_found_by_the_sweep(
    redis: Redis, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(answers_module, "SWEEP_S", 0.05)
    async with Answers(redis) as answers:
        waiting = await waited_for(answers, "ord_1")
        await write(redis, "ord_1")
        assert await asyncio.wait_for(waiting, 10)


async def test_what_happened_while_the_store_was_away_is_found_when_it_is_back(
    redis: Redis, store_url: str, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(answers_module, "SWEEP_S", HOUR)
    monkeypatch.setattr(answers_module, "_AGAIN_S", 0.01)
    async with fault_proxy(store_url) as proxy:
        through = ledger_client(proxy.url, patience_s=0.2)
        async with Answers(through) as answers:
            await listening(redis)
            many = [await waited_for(answers, f"ord_{number}") for number in range(3)]
            await proxy.refuse()
            await listening(redis, 0)
            await write(redis, "ord_0")
            await tell(redis, ("ord_0", "PLACED"))
            late = asyncio.create_task(answers.wait("ord_9", HOUR))
            await proxy.accept()
            assert await asyncio.wait_for(many[0], 10)
            proxy.cut()  # the door stays open: a connection that comes back at once
            await write(redis, "ord_1")
            assert await asyncio.wait_for(many[1], 10)
            await listening(redis)
            for order_id in ("ord_2", "ord_9"):
                await write(redis, order_id)
                await tell(redis, (order_id, "PLACED"))
            assert all(await asyncio.wait_for(asyncio.gather(many[2], late), 10))
        await through.aclose()


async def test_a_store_that_says_nothing_any_more_is_left_and_listened_to_anew(
    redis: Redis, store_url: str, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(answers_module, "SWEEP_S", HOUR)
    monkeypatch.setattr(answers_module, "_SILENCE_S", 0.2)
    monkeypatch.setattr(answers_module, "_AGAIN_S", 0.01)
    async with fault_proxy(store_url) as proxy:
        through = ledger_client(proxy.url, patience_s=5)
        async with Answers(through) as answers:
            await listening(redis)
            waiting = await waited_for(answers, "ord_1")
            connections = len(proxy._open)
            proxy.delay_s = 2.0  # connected, and for ten times as long as is waited nothing comes
            await write(redis, "ord_1")

            async def tried_anew() -> bool:
                return len(proxy._open) > connections

            await eventually(tried_anew)
            proxy.delay_s = 0.0
            assert await asyncio.wait_for(waiting, 10)
        await through.aclose()


async def test_the_subscription_takes_no_connection_from_those_who_ask_the_store(
    answers: Answers, redis: Redis
):
    assert await answers.wait("ord_1", 0) is None
    assert len(await redis.client_list("pubsub")) == 1
    async with asyncio.timeout(60):
        held = [await redis.connection_pool.get_connection() for _ in range(CONNECTIONS)]
    for connection in held:
        await redis.connection_pool.release(connection)


async def test_waiting_where_nobody_listens_is_refused_and_one_look_is_not(redis: Redis):
    closed = Answers(redis)
    assert await closed.wait("ord_1", 0) is None
    with pytest.raises(RuntimeError, match="nobody listens"):
        await closed.wait("ord_1", 1)


async def test_who_still_waits_when_the_process_ends_is_let_go_without_an_answer(redis: Redis):
    async with Answers(redis) as answers:
        waiting = await waited_for(answers, "ord_1")
    assert await asyncio.wait_for(waiting, 10) is None
    await listening(redis, 0)


async def test_without_a_store_it_starts_and_ends_all_the_same(redis: Redis, store_url: str):
    async with fault_proxy(store_url) as proxy:
        await proxy.refuse()
        nowhere = ledger_client(proxy.url, patience_s=0.05)
        async with Answers(nowhere) as answers:
            assert await answers.wait("ord_1", 0.05) is None
        await nowhere.aclose()
