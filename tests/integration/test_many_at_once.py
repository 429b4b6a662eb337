"""Orders in numbers: one claim for all that is due, one settle for all that came back."""

import asyncio
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from random import Random
from typing import Any, cast

import pytest
from redis.asyncio import Redis
from redis.exceptions import ConnectionError as StoreAway
from redis.exceptions import ResponseError

from dispatcher.attempt import Workshop
from dispatcher.call_handler import CallHandler
from dispatcher.leases import Leases
from dispatcher.recoverer import Recoverer
from shared import keys
from shared.claim import Claimed, NotClaimed, Question, Terms
from shared.clock import SYSTEM_CLOCK
from shared.desk import OrderNotAccepted, Submission
from shared.ledger import Act, Ledger
from shared.lifecycle import Decision, OrderState
from shared.order import LIFETIME_MAX
from shared.progress import did_it_ring
from shared.recovery import Retention
from shared.register import Register
from shared.script_runner import Together
from shared.settings import Settings
from tests.conftest import MakeOrder, eventually

S = OrderState
DOUBT = Decision(S.IN_DOUBT, "lease_ran_out", "not heard of again", wait_s=0)
TERMS = Terms("w-1", 60, lost=DOUBT, overdue=DOUBT)
PLACED = Decision(S.PLACED, "placed", "the handler named the call", call_sid="CA1")
FOR_EVER_S = 10.0**6


def question(limit: int) -> Question:
    return Question(SYSTEM_CLOCK.monotonic(), limit)


async def taken(ledger: Ledger, make_order: MakeOrder, number: int, **fields: Any) -> list[str]:
    orders = [make_order(**fields) for _ in range(number)]
    for order in orders:
        assert await ledger.submit(order) is Submission.ACCEPTED
    return [order.order_id for order in orders]


async def settled(ledger: Ledger, order_id: str, decision: Decision) -> None:
    claimed = await ledger.claim(order_id, TERMS)
    assert isinstance(claimed, Claimed)
    act = await ledger.settle(order_id, claimed.token, decision, evidence={}, by="w-1")
    assert act is Act.DONE


async def calls(redis: Redis, command: str = "evalsha") -> int:
    statistics = await redis.info("commandstats")
    return int(statistics.get(f"cmdstat_{command}", {"calls": 0})["calls"])


# Claims


async def test_those_that_fell_due_first_are_claimed_first_and_no_more_than_there_is_room_for(
    ledger: Ledger, redis: Redis, make_order: MakeOrder
):
    ids = await taken(ledger, make_order, 5)
    for place, order_id in enumerate(ids, 1):
        await redis.zadd(keys.QUEUE, {order_id: place})
    first = await ledger.claim_due(question(3), TERMS)
    assert list(first.answers) == ids[:3]
    assert all(isinstance(answer, Claimed) for answer in first.answers.values())
    assert first.next_in_s == 0, "there may be more"
    second = await ledger.claim_due(question(3), replace(TERMS, worker="w-2"))
    assert list(second.answers) == ids[3:]
    assert second.next_in_s is None
    assert await redis.zcard(keys.QUEUE) == 0


async def test_workers_that_ask_at_the_same_moment_are_given_different_orders(
    ledger: Ledger, make_order: MakeOrder
):
    ids = await taken(ledger, make_order, 40)
    asked = [
        ledger.claim_due(question(7), replace(TERMS, worker=f"w-{number}")) for number in range(8)
    ]
    given = Counter(order_id for due in await asyncio.gather(*asked) for order_id in due.answers)
    assert given == Counter(ids)


async def test_a_question_whose_answer_got_lost_is_answered_again_and_not_anew(
    ledger: Ledger, make_order: MakeOrder
):
    ids = await taken(ledger, make_order, 6)
    asked = question(3)
    before = await ledger.claim_due(asked, TERMS)
    other = await ledger.claim_due(question(1), TERMS)
    again = await ledger.claim_due(asked, TERMS)
    assert set(again.answers) == set(before.answers)
    assert len(before.answers) == 3
    assert not set(again.answers) & set(other.answers)
    tokens = {answer.token for answer in again.answers.values() if isinstance(answer, Claimed)}
    assert tokens == {1}
    rest = await ledger.claim_due(question(9), TERMS)
    assert set(rest.answers) == set(ids) - set(before.answers) - set(other.answers)


async def test_a_question_that_is_heard_too_late_is_void(
    ledger: Ledger, redis: Redis, make_order: MakeOrder
):
    (order_id,) = await taken(ledger, make_order, 1)
    seconds, _ = await redis.time()
    late = replace(question(3), void_after=int(seconds) * 1000 - 1)
    void = await ledger.claim_due(late, TERMS)
    assert (void.answers, void.next_in_s) == ({}, 0)
    assert void.server_ms >= int(seconds) * 1000
    assert list((await ledger.claim_due(question(3), TERMS)).answers) == [order_id]


async def test_a_record_that_does_not_count_is_no_reason_to_die(
    ledger: Ledger, redis: Redis, make_order: MakeOrder
):
    damaged, sound = await taken(ledger, make_order, 2)
    await redis.hset(keys.record(damaged), "deaths", "x")  # type: ignore[misc]
    due = await ledger.claim_due(question(5), TERMS)
    assert isinstance(due.answers[damaged], NotClaimed)
    assert isinstance(due.answers[sound], Claimed)


async def test_when_the_next_order_is_due_is_known_to_the_millisecond(
    ledger: Ledger, redis: Redis, make_order: MakeOrder
):
    (order_id,) = await taken(ledger, make_order, 1)
    await settled(ledger, order_id, Decision(S.RETRYABLE, "busy", "later", wait_s=5))
    nothing = await ledger.claim_due(question(3), TERMS)
    assert nothing.answers == {}
    seconds, micros = await redis.time()
    due_ms = await redis.zscore(keys.QUEUE, order_id)
    assert nothing.next_in_s == pytest.approx(due_ms / 1000 - seconds - micros / 1e6, abs=1)


async def test_an_order_that_breaks_the_claim_is_put_off_and_hides_no_other(
    ledger: Ledger, redis: Redis, make_order: MakeOrder
):
    broken, sound = await taken(ledger, make_order, 2)
    await redis.zadd(keys.QUEUE, {broken: 1, sound: 2})
    await redis.delete(keys.record(broken))
    await redis.set(keys.record(broken), "not a record")
    due = await ledger.claim_due(question(5), TERMS)
    answer = due.answers[broken]
    assert isinstance(answer, NotClaimed)
    assert (answer.why, "WRONGTYPE" in answer.detail) == ("broken", True)
    assert isinstance(due.answers[sound], Claimed)
    assert list((await ledger.claim_due(question(5), TERMS)).answers) == []
    assert await redis.zscore(keys.QUEUE, broken) is not None


# Leases


async def test_a_lease_that_is_renewed_is_not_lost(
    ledger: Ledger, redis: Redis, make_order: MakeOrder
):
    slow, over = await taken(ledger, make_order, 2)
    held = [await ledger.claim(order_id, replace(TERMS, lease_s=0.3)) for order_id in (slow, over)]
    tokens = [claimed.token for claimed in held if isinstance(claimed, Claimed)]
    assert await ledger.renew([(slow, tokens[0])], 60) == [True]

    async def ran_out() -> list[str]:
        return (await ledger.look(leases=9, doubts=0)).lost

    assert await eventually(ran_out) == [over]
    assert await ledger.renew([(over, tokens[1]), (slow, 99)], 60) == [False, False]


async def test_an_attempt_that_ends_leaves_the_lease_of_the_next_one_alone(
    ledger: Ledger, make_order: MakeOrder
):
    order_id, _ = await taken(ledger, make_order, 2)
    first = await ledger.claim(order_id, TERMS)
    assert isinstance(first, Claimed)
    second = replace(first, token=first.token + 1, good_until=first.good_until - 30)
    leases = Leases(ledger, 60)
    with leases.hold(second):
        with leases.hold(first):
            pass
        assert [claimed.token for claimed in leases.held] == [second.token]


async def test_only_what_is_held_for_long_is_renewed(
    ledger: Ledger, redis: Redis, make_order: MakeOrder
):
    old, young, lost = await taken(ledger, make_order, 3)
    leases = Leases(ledger, 60)
    claims = {}
    for order_id in (old, young, lost):
        answer = await ledger.claim(order_id, TERMS)
        assert isinstance(answer, Claimed)
        claims[order_id] = answer
    for order_id in (old, lost):
        claims[order_id].good_until -= 30
    claims[lost].token += 1
    before = {order_id: claimed.good_until for order_id, claimed in claims.items()}
    asked = await calls(redis)
    with leases.hold(claims[old]), leases.hold(claims[young]), leases.hold(claims[lost]):
        await leases.renew()
        assert await calls(redis) == asked + 1
        assert claims[old].good_until > before[old]
        assert claims[young].good_until == before[young]
        assert claims[lost].good_until == before[lost]
    await leases.renew()
    assert await calls(redis) == asked + 1, "nothing is held: nothing is asked"


# Together


async def test_what_is_handed_in_or_settled_at_the_same_moment_goes_in_one_call(
    ledger: Ledger, redis: Redis, make_order: MakeOrder
):
    await ledger.submit(make_order())  # loads the script
    before = await calls(redis)
    orders = [make_order() for _ in range(30)]
    assert {*await asyncio.gather(*map(ledger.submit, orders))} == {Submission.ACCEPTED}
    assert await calls(redis) == before + 1
    due = await ledger.claim_due(question(50), TERMS)
    claims = [answer for answer in due.answers.values() if isinstance(answer, Claimed)]
    await ledger.settle("ord_nobodyknows", 1, PLACED, evidence={}, by="w-1")
    before = await calls(redis)
    acts = await asyncio.gather(
        *(
            ledger.settle(claimed.order.order_id, claimed.token, PLACED, evidence={}, by="w-1")
            for claimed in claims
        )
    )
    assert (len(acts), {*acts}) == (31, {Act.DONE})
    assert await calls(redis) == before + 1


async def test_the_same_order_twice_in_one_call_is_taken_in_once(
    ledger: Ledger, register: Register, make_order: MakeOrder
):
    order = make_order()
    other = order.model_copy(update={"final_instructions": "Something else."})
    answers = await asyncio.gather(*map(ledger.submit, (order, order, other)))
    assert answers == [Submission.ACCEPTED, Submission.ALREADY_QUEUED, Submission.CONFLICT]
    assert len(await register.history(order.order_id)) == 1


async def test_what_is_wrong_with_one_of_many_is_the_answer_to_that_one(
    ledger: Ledger, redis: Redis, make_order: MakeOrder
):
    ids = await taken(ledger, make_order, 3)
    for order_id in ids:
        await ledger.claim(order_id, TERMS)
    await redis.delete(keys.record(ids[1]))
    await redis.set(keys.record(ids[1]), "not a record")
    acts = await asyncio.gather(
        *(ledger.settle(order_id, 1, PLACED, evidence={}, by="w-1") for order_id in ids),
        return_exceptions=True,
    )
    assert [acts[0], acts[2]] == [Act.DONE, Act.DONE]
    assert isinstance(acts[1], ResponseError)
    assert await redis.zrange(keys.LEASES, 0, -1) == [ids[1]]
    fine = {await redis.zscore(keys.state(S.PLACED), ids[place]) is not None for place in (0, 2)}
    assert fine == {True}


async def test_a_call_that_fails_fails_for_all_who_asked_and_for_nobody_else():
    sent: list[int] = []

    async def call(questions: Sequence[Sequence[str | int]]) -> list[int]:
        sent.append(len(questions))
        if len(sent) == 1:
            raise StoreAway("away")
        return [cast("int", word) * 2 for (word,) in questions]

    together = Together(call)
    asked = [asyncio.ensure_future(together.ask(number)) for number in range(3)]
    await asyncio.sleep(0)  # all have asked, and none is answered
    asked[1].cancel()
    answers = await asyncio.gather(*asked, return_exceptions=True)
    assert [type(answer) for answer in answers] == [
        StoreAway,
        asyncio.CancelledError,
        StoreAway,
    ]
    assert await asyncio.gather(*map(together.ask, range(150))) == [2 * n for n in range(150)]
    assert sent == [3, 100, 50]


async def test_what_fails_half_way_is_written_to_no_index(
    ledger: Ledger, redis: Redis, make_order: MakeOrder
):
    known, new = make_order(), make_order()
    await ledger.submit(known)
    await redis.set(keys.record(new.order_id), "not a record")
    answers = await asyncio.gather(*map(ledger.submit, (known, new)), return_exceptions=True)
    assert answers[0] is Submission.ALREADY_QUEUED
    assert isinstance(answers[1], ResponseError)
    assert await redis.zrange(keys.ORDERS, 0, -1) == [known.order_id]
    assert await redis.zrange(keys.QUEUE, 0, -1) == [known.order_id]


async def test_what_was_taken_in_before_is_not_refused_because_the_store_is_full_now(
    ledger: Ledger, redis: Redis, make_order: MakeOrder
):
    known, new = make_order(), make_order()
    await ledger.submit(known)
    full = (await redis.config_get("maxmemory"))["maxmemory"]
    try:
        await redis.config_set("maxmemory", 1)
        answers = await asyncio.gather(*map(ledger.submit, (known, new)), return_exceptions=True)
    finally:
        await redis.config_set("maxmemory", full)
    assert answers[0] is Submission.ALREADY_QUEUED
    assert isinstance(answers[1], OrderNotAccepted)
    assert (answers[1].certain, "full" in str(answers[1])) == (True, True)


# Retention


async def ended(
    ledger: Ledger, redis: Redis, make_order: MakeOrder, number: int, **fields: Any
) -> list[str]:
    """Take orders in and place them, one a second, an hour ago."""
    ids = await taken(ledger, make_order, number, **fields)
    hour_ago_ms = round((SYSTEM_CLOCK.now().timestamp() - 3600) * 1000)
    for place, order_id in enumerate(ids):
        await settled(ledger, order_id, replace(PLACED, call_sid=f"CA{order_id}"))
        await redis.zadd(keys.state(S.PLACED), {order_id: hour_ago_ms + place * 1000})
    return ids


async def forgotten(redis: Redis, order_id: str) -> bool:
    return not await redis.hexists(keys.record(order_id), "body")  # type: ignore[misc]


async def test_orders_that_ended_long_ago_are_forgotten_and_no_others(
    ledger: Ledger, redis: Redis, make_order: MakeOrder
):
    old = await ended(ledger, redis, make_order, 3)
    (new,) = await taken(ledger, make_order, 1)
    await settled(ledger, new, PLACED)
    for state, decision in {
        S.DEAD: Decision(S.DEAD, "none_left", "no luck"),
        S.IN_DOUBT: Decision(S.IN_DOUBT, "unanswered", "silence"),
    }.items():
        (order_id,) = await taken(ledger, make_order, 1)
        await settled(ledger, order_id, decision)
        await redis.zadd(keys.state(state), {order_id: 1})
    assert await ledger.trim(Retention(1800, 100, 60), limit=100) == 3
    assert [await forgotten(redis, order_id) for order_id in (*old, new)] == [True] * 3 + [False]
    assert await redis.zcard(keys.ORDERS) == 3
    assert await ledger.trim(Retention(1800, 100, 60), limit=100) == 0


async def test_those_that_are_too_many_are_forgotten_the_oldest_first(
    ledger: Ledger, redis: Redis, make_order: MakeOrder
):
    ids = await ended(ledger, redis, make_order, 5)
    (refused,) = await taken(ledger, make_order, 1)
    await settled(ledger, refused, Decision(S.REFUSED, "refused", "422"))
    await redis.zadd(keys.state(S.REFUSED), {refused: 1})
    retention = Retention(FOR_EVER_S, 3, 60)
    assert await ledger.trim(retention, limit=2) == 2
    assert await ledger.trim(retention, limit=2) == 1
    assert await ledger.trim(retention, limit=2) == 0
    gone = [order_id for order_id in (refused, *ids) if await forgotten(redis, order_id)]
    assert gone == [refused, *ids[:2]]


async def test_of_an_order_that_is_forgotten_stays_that_it_was_and_what_became_of_it(
    ledger: Ledger, register: Register, redis: Redis, make_order: MakeOrder
):
    order = make_order(user_name="Ada Lovelace")
    await ledger.submit(order)
    await settled(ledger, order.order_id, PLACED)
    assert await ledger.trim(Retention(0, 0, 3600), limit=10) == 1

    progress = await ledger.progress(order.order_id)
    assert progress is not None
    assert (progress.state, progress.call_sid) == (S.PLACED, "CA1")
    assert did_it_ring(progress).startswith("Yes")
    assert await register.body(order.order_id) is None
    assert await register.history(order.order_id) == []
    result = await ledger.result(order.order_id)
    assert result is not None, "somebody may still be waiting for it"
    assert result.call_sid == "CA1"
    record = keys.record(order.order_id)
    kept_keys = {record, keys.result(order.order_id)}
    assert {key for key in await redis.keys("*") if key != keys.WAKEUP} == kept_keys
    kept = await redis.hgetall(record)  # type: ignore[misc]
    assert "Ada" not in str(kept)
    assert order.target_phone_number not in str(kept)

    assert await ledger.submit(order) is Submission.ALREADY_QUEUED
    wish = order.model_copy(update={"final_instructions": "Something else."})
    assert await ledger.submit(wish) is Submission.CONFLICT
    assert await redis.zcard(keys.QUEUE) == 0
    left_s = await redis.ttl(record)
    until_deadline_s = (order.expires_at - SYSTEM_CLOCK.now()).total_seconds()
    assert left_s == pytest.approx(until_deadline_s + 3600, abs=60)
    assert await redis.ttl(keys.result(order.order_id)) == pytest.approx(left_s, abs=60)


async def test_an_order_that_was_held_back_stays_so_for_as_long_as_any_order_lives(
    ledger: Ledger, redis: Redis, make_order: MakeOrder
):
    order = make_order()
    await ledger.cancel(order.order_id, by="ada", why="no", even_if_unknown=True)
    assert await ledger.trim(Retention(0, 0, 60), limit=10) == 1
    assert await redis.ttl(keys.record(order.order_id)) > LIFETIME_MAX.total_seconds()
    assert await ledger.submit(order) is Submission.CONFLICT


async def test_the_store_does_not_grow_under_a_steady_load(
    ledger: Ledger, redis: Redis, make_order: MakeOrder
):
    retention, sizes = Retention(FOR_EVER_S, 20, 0.001), []
    for _ in range(4):
        await ended(ledger, redis, make_order, 30)
        while await ledger.trim(retention, limit=10):
            pass
        # What is known of an order lives on until its deadline; here that is over.
        for key in [key async for key in redis.scan_iter("ringonce:*")]:
            if await redis.pttl(key) > 0:
                await redis.delete(key)
        await redis.delete(keys.WAKEUP)
        sizes.append(await redis.dbsize())
    assert len(set(sizes)) == 1


async def test_the_recoverer_forgets(
    ledger: Ledger, redis: Redis, settings: Settings, make_order: MakeOrder
):
    ids = await ended(ledger, redis, make_order, 150)
    async with CallHandler(settings.profile, connections=1) as handler:
        shop = Workshop("w-1", ledger, handler, settings.policy, 60, Random(1))
        await Recoverer(shop, 1, Retention(FOR_EVER_S, 7, 60)).trim()
    assert sum([await forgotten(redis, order_id) for order_id in ids]) == 143
    assert await redis.zcard(keys.state(S.PLACED)) == 7
