"""The ledger's contract: the same tests for a real server and for the fake of it."""

import asyncio
import json
import uuid
from collections.abc import AsyncIterator, Callable
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from arq.jobs import deserialize_job_raw
from redis.asyncio import Redis

from shared import keys
from shared.claim import ClaimAnswer, Claimed, NotClaimed, Question, Terms, Unreadable
from shared.clock import SYSTEM_CLOCK, from_epoch_ms, to_epoch_ms
from shared.desk import Cancellation, OrderNotAccepted, Submission
from shared.envelope import JOB_FUNCTION
from shared.ledger import Act, Ledger
from shared.lifecycle import ENDED, WAITING, Decision, OrderState
from shared.order import CallOrder
from shared.progress import did_it_ring, why_it_waits
from shared.redis_pool import ledger_client
from shared.register import Register
from tests.conftest import MakeOrder, eventually
from tests.fakes.fake_store import FakeStore

S = OrderState
LOST = Decision(S.IN_DOUBT, "lease_ran_out", "not heard of again")
OVERDUE = Decision(S.IN_DOUBT, "overdue_after_unanswered", "its time was up")
PLACED = Decision(S.PLACED, "placed", "the handler named the call", call_sid="CA1")
REFUSED = Decision(S.REFUSED, "refused", "400: no")
DEAD = Decision(S.DEAD, "none_left", "40 attempts")
IN_DOUBT = Decision(S.IN_DOUBT, "unanswered", "ReadTimeout")
AGAIN = Decision(S.RETRYABLE, "not_sent", "ConnectError", wait_s=0)
MUCH_LATER = Decision(S.RETRYABLE, "not_sent", "ConnectError", wait_s=600)
BUSY = Decision(S.RETRYABLE, "busy", "429", wait_s=0, spends_attempt=False)
SAME_KEY = Decision(S.RETRYABLE, "same_key_again", "it will not ring twice", wait_s=0)
EVIDENCE = {"outcome": "Placed", "wire": {"status": 200}}
NOBODY = "ord_nobodyknows"

real_server_only = pytest.mark.parametrize("redis", ["server"], indirect=True)


@pytest.fixture(params=["server", "fake"])
async def redis(request: pytest.FixtureRequest, store_url: str) -> AsyncIterator[Redis]:
    client = FakeStore() if request.param == "fake" else ledger_client(store_url, patience_s=2)
    yield client
    await client.flushdb()
    await client.aclose()


async def claim(
    ledger: Ledger, order_id: str, *, worker: str = "worker-1", lease_s: float = 60
) -> ClaimAnswer:
    return await ledger.claim(order_id, Terms(worker, lease_s, LOST, OVERDUE))


async def claimed(ledger: Ledger, order_id: str, **how: Any) -> Claimed:
    answer = await claim(ledger, order_id, **how)
    assert isinstance(answer, Claimed), answer
    return answer


async def settle(ledger: Ledger, order_id: str, token: int, decision: Decision) -> Act:
    return await ledger.settle(order_id, token, decision, evidence=EVIDENCE, by="worker-1")


async def attempt(ledger: Ledger, order_id: str, decision: Decision) -> int:
    """Claim and settle; return the token."""
    token = (await claimed(ledger, order_id)).token
    assert await settle(ledger, order_id, token, decision) is Act.DONE
    return token


async def submitted(ledger: Ledger, order: CallOrder) -> str:
    assert await ledger.submit(order) is Submission.ACCEPTED
    return order.order_id


async def bring(ledger: Ledger, order: CallOrder, state: OrderState) -> str:
    """Submit `order` and bring it to `state`."""
    order_id = await submitted(ledger, order)
    match state:
        case S.QUEUED:
            pass
        case S.SENDING:
            await claimed(ledger, order_id)
        case S.CANCELLED:
            await ledger.cancel(order_id, by="ada", why="no appetite")
        case S.EXPIRED:
            await expire(ledger.redis, order_id)
            assert await claim(ledger, order_id) == NotClaimed("expired")
        case _:
            reached = {d.to: d for d in (PLACED, REFUSED, DEAD, IN_DOUBT, AGAIN)}
            await attempt(ledger, order_id, reached[state])
    assert await state_of(ledger, order_id) is state
    return order_id


async def lose_lease(ledger: Ledger, order_id: str) -> int:
    """Claim with a lease that runs out at once, and have that noticed; return the token."""
    token = (await claimed(ledger, order_id, lease_s=0.001)).token
    await eventually(lambda: ledger.recover(order_id, LOST, by="recoverer"))
    return token


async def expire(redis: Redis, order_id: str) -> None:
    """Let the order's deadline have passed."""
    past = {"expires": (await server_ms(redis)) - 1}
    await redis.hset(keys.record(order_id), mapping=past)  # type: ignore[misc]


async def state_of(ledger: Ledger, order_id: str) -> OrderState:
    progress = await ledger.progress(order_id)
    assert progress is not None
    return progress.state


async def server_ms(redis: Redis) -> int:
    seconds, micros = await redis.time()
    return int(seconds) * 1000 + int(micros) // 1000


async def everything(redis: Redis) -> dict[str, Any]:
    """Return the whole store, to see that nothing, or just this, was written."""
    read: dict[str, Callable[[str], Any]] = {
        "hash": redis.hgetall,
        "list": lambda key: redis.lrange(key, 0, -1),
        "set": redis.smembers,
        "string": redis.get,
        "zset": lambda key: redis.zrange(key, 0, -1, withscores=True),
    }
    return {key: await read[await redis.type(key)](key) for key in sorted(await redis.keys("*"))}


# Submit


async def test_a_new_order_is_accepted_with_record_job_queue_entry_and_wakeup_together(
    ledger: Ledger, register: Register, redis: Redis, make_order: MakeOrder
):
    order = make_order()
    assert await ledger.submit(order) is Submission.ACCEPTED

    assert await register.body(order.order_id) == order
    progress = await ledger.progress(order.order_id)
    assert progress is not None
    assert (progress.state, progress.attempt, progress.token) == (S.QUEUED, 0, 0)
    assert await redis.zscore(keys.QUEUE, order.order_id) <= await server_ms(redis)
    assert await ledger.announced(10, 1) == [order.order_id]
    assert await ledger.result(order.order_id) is None


async def test_the_job_is_one_that_arq_reads_and_it_carries_the_id_only(
    ledger: Ledger, redis: Redis, make_order: MakeOrder
):
    order = make_order()
    await ledger.submit(order)
    envelope = (await redis.get(keys.job(order.order_id))).encode()
    function, args, kwargs, tries, enqueued_ms = deserialize_job_raw(
        envelope, deserializer=json.loads
    )
    assert (function, list(args), kwargs) == (JOB_FUNCTION, [order.order_id], {})
    assert not tries
    assert abs(from_epoch_ms(enqueued_ms) - SYSTEM_CLOCK.now()) < timedelta(minutes=1)


async def test_the_same_order_again_changes_nothing_and_is_told_so(
    ledger: Ledger, redis: Redis, make_order: MakeOrder
):
    order = make_order()
    await ledger.submit(order)
    before = await everything(redis)
    later = order.model_copy(update={"expires_at": order.expires_at + timedelta(hours=1)})
    assert await ledger.submit(order) is Submission.ALREADY_QUEUED
    assert await ledger.submit(later) is Submission.ALREADY_QUEUED
    assert await everything(redis) == before


async def test_another_wish_under_the_same_id_is_a_conflict_and_overwrites_nothing(
    ledger: Ledger, redis: Redis, make_order: MakeOrder
):
    order = make_order()
    await ledger.submit(order)
    before = await everything(redis)
    other = order.model_copy(update={"target_phone_number": "+14155550100"})
    assert await ledger.submit(other) is Submission.CONFLICT
    assert await everything(redis) == before


@pytest.mark.parametrize("state", S)
async def test_an_order_that_ever_was_is_never_taken_in_again(
    ledger: Ledger, make_order: MakeOrder, state: OrderState
):
    order = make_order()
    await bring(ledger, order, state)
    assert await ledger.submit(order) is Submission.ALREADY_QUEUED
    assert await state_of(ledger, order.order_id) is state


async def test_of_many_that_submit_the_same_order_at_once_one_is_accepted(
    ledger: Ledger, redis: Redis, make_order: MakeOrder
):
    order = make_order()
    answers = await asyncio.gather(*(ledger.submit(order) for _ in range(20)))
    assert sorted(answers) == [Submission.ACCEPTED] + [Submission.ALREADY_QUEUED] * 19
    assert await redis.zcard(keys.QUEUE) == 1


@real_server_only
async def test_a_full_store_refuses_a_new_order_for_certain_but_finishes_the_old_ones(
    ledger: Ledger, redis: Redis, make_order: MakeOrder
):
    sending, waiting, doubtful, dead = [
        await bring(ledger, make_order(owner=state.lower()), state)
        for state in (S.SENDING, S.QUEUED, S.IN_DOUBT, S.DEAD)
    ]
    before = await everything(redis)
    full = (await redis.config_get("maxmemory"))["maxmemory"]
    await redis.config_set("maxmemory", "1")
    try:
        with pytest.raises(OrderNotAccepted, match="full") as refused:
            await ledger.submit(make_order())
        assert refused.value.certain
        assert await everything(redis) == before

        assert await settle(ledger, sending, 1, PLACED) is Act.DONE
        await attempt(ledger, waiting, PLACED)
        assert await ledger.resolve(doubtful, call_sid="CA2", by="ada", why="asked") is Act.DONE
        assert await ledger.requeue(dead, by="ada", why="again") is Act.DONE
        assert await ledger.cancel(dead, by="ada", why="never mind") is Cancellation.CANCELLED
        assert (await ledger.look(leases=1, doubts=1)).lost == []
    finally:
        await redis.config_set("maxmemory", full)


@real_server_only
async def test_a_store_that_takes_no_writes_refuses_for_certain(
    redis: Redis, store_url: str, make_order: MakeOrder
):
    client = ledger_client(store_url, patience_s=0)
    await redis.replicaof("127.0.0.1", 1)  # nobody is there: a replica without a primary
    try:
        with pytest.raises(OrderNotAccepted, match="read-only") as refused:
            await Ledger(client).submit(make_order())
        assert refused.value.certain
    finally:
        await redis.replicaof("NO", "ONE")
        await client.aclose()
    assert await redis.dbsize() == 0


@pytest.mark.parametrize("redis", ["fake"], indirect=True)
async def test_a_store_that_goes_silent_may_or_may_not_have_the_order(
    redis: Redis, make_order: MakeOrder
):
    nobody = ledger_client("redis://127.0.0.1:1/0", patience_s=0)
    with pytest.raises(OrderNotAccepted, match="may or may not") as refused:
        await Ledger(nobody).submit(make_order())
    assert not refused.value.certain
    await nobody.aclose()


# Claim


async def test_a_claim_gives_the_order_with_a_token_and_a_lease(
    ledger: Ledger, redis: Redis, make_order: MakeOrder
):
    order = make_order()
    order_id = await submitted(ledger, order)
    before = SYSTEM_CLOCK.monotonic()
    answer = await claimed(ledger, order_id, lease_s=60)
    assert answer.order == order
    assert (answer.token, answer.attempt, answer.worker) == (1, 1, "worker-1")
    assert (answer.tries.spent, answer.tries.unanswered, answer.tries.deaths) == (1, 0, 0)
    assert before + 60 <= answer.good_until <= SYSTEM_CLOCK.monotonic() + 60
    assert await state_of(ledger, order_id) is S.SENDING
    assert await redis.zscore(keys.LEASES, order_id) <= await server_ms(redis) + 60_000
    assert await redis.zscore(keys.QUEUE, order_id) is None


@pytest.mark.parametrize(
    ("state", "answer"),
    [
        (S.SENDING, NotClaimed("held")),
        (S.PLACED, NotClaimed("ended", "PLACED")),
        (S.REFUSED, NotClaimed("ended", "REFUSED")),
        (S.DEAD, NotClaimed("ended", "DEAD")),
        (S.IN_DOUBT, NotClaimed("ended", "IN_DOUBT")),
        (S.CANCELLED, NotClaimed("ended", "CANCELLED")),
        (S.EXPIRED, NotClaimed("ended", "EXPIRED")),
    ],
)
async def test_what_does_not_wait_is_not_given_out_and_leaves_the_queue(
    ledger: Ledger, redis: Redis, make_order: MakeOrder, state: OrderState, answer: NotClaimed
):
    order_id = await bring(ledger, make_order(), state)
    await redis.zadd(keys.QUEUE, {order_id: 0})
    assert await claim(ledger, order_id, worker="worker-2") == answer
    assert await redis.zscore(keys.QUEUE, order_id) is None
    assert await state_of(ledger, order_id) is state


@pytest.mark.parametrize("state", sorted(WAITING))
async def test_what_waits_is_given_out(ledger: Ledger, make_order: MakeOrder, state: OrderState):
    order_id = await bring(ledger, make_order(), state)
    assert isinstance(await claim(ledger, order_id), Claimed)


async def test_a_stranger_in_the_queue_is_thrown_out(ledger: Ledger, redis: Redis):
    await redis.zadd(keys.QUEUE, {NOBODY: 0})
    assert await claim(ledger, NOBODY) == NotClaimed("unknown")
    assert await everything(redis) == {}


async def test_a_claim_sent_again_after_a_lost_answer_is_answered_alike(
    ledger: Ledger, redis: Redis, make_order: MakeOrder, monkeypatch: pytest.MonkeyPatch
):
    order_id = await submitted(ledger, make_order())
    question = uuid.UUID(int=7)
    monkeypatch.setattr(uuid, "uuid4", lambda: question)
    first = await claimed(ledger, order_id)
    before = await everything(redis)
    again = await claimed(ledger, order_id)
    assert (again.token, again.attempt, again.tries) == (first.token, first.attempt, first.tries)
    assert await everything(redis) == before


async def test_of_many_that_claim_at_once_one_gets_it(ledger: Ledger, make_order: MakeOrder):
    order_id = await submitted(ledger, make_order())
    answers = await asyncio.gather(
        *(claim(ledger, order_id, worker=f"worker-{n}") for n in range(20))
    )
    assert len([answer for answer in answers if isinstance(answer, Claimed)]) == 1
    assert answers.count(NotClaimed("held")) == 19


async def test_tokens_grow_with_every_claim_through_requeues_and_doubts(
    ledger: Ledger, make_order: MakeOrder
):
    order_id = await submitted(ledger, make_order())
    tokens = [await attempt(ledger, order_id, AGAIN)]
    tokens += [await attempt(ledger, order_id, BUSY)]
    tokens += [await attempt(ledger, order_id, IN_DOUBT)]
    await ledger.resolve(order_id, call_sid=None, by="ada", why="nothing rang")
    tokens += [await attempt(ledger, order_id, DEAD)]
    await ledger.requeue(order_id, by="ada", why="again")
    tokens += [await attempt(ledger, order_id, PLACED)]
    assert tokens == [1, 2, 3, 4, 5]


async def test_what_is_not_due_is_not_given_out_before_it_is(
    ledger: Ledger, redis: Redis, make_order: MakeOrder
):
    order_id = await submitted(ledger, make_order())
    await attempt(ledger, order_id, Decision(S.RETRYABLE, "not_sent", "ConnectError", wait_s=0.2))
    due_ms = int(await redis.zscore(keys.QUEUE, order_id))
    assert await claim(ledger, order_id) == NotClaimed("not_due", str(due_ms))

    async def given_out() -> Claimed | None:
        answer = await claim(ledger, order_id)
        return answer if isinstance(answer, Claimed) else None

    await eventually(given_out)
    assert await server_ms(redis) >= due_ms


async def test_a_lease_that_ran_out_is_never_given_to_the_next_but_put_in_doubt(
    ledger: Ledger, redis: Redis, make_order: MakeOrder
):
    order_id = await submitted(ledger, make_order())
    await claimed(ledger, order_id, lease_s=0.001)

    async def no_longer_held() -> NotClaimed | None:
        answer = await claim(ledger, order_id, worker="worker-2")
        assert isinstance(answer, NotClaimed)
        return None if answer.why == "held" else answer

    assert await eventually(no_longer_held) == NotClaimed("in_doubt")
    progress = await ledger.progress(order_id)
    assert progress is not None
    assert (progress.state, progress.rule) == (S.IN_DOUBT, "lease_ran_out")
    assert (progress.unanswered, progress.deaths) == (1, 1)
    assert await redis.zcard(keys.LEASES) == 0


async def test_a_record_of_another_version_is_claimed_but_never_sent(
    ledger: Ledger, redis: Redis, make_order: MakeOrder
):
    order_id = await submitted(ledger, make_order())
    await redis.hset(keys.record(order_id), "body", '{"schema_version": 2}')  # type: ignore[misc]
    answer = await claim(ledger, order_id)
    assert isinstance(answer, Unreadable)
    assert await settle(ledger, order_id, answer.token, DEAD) is Act.DONE


# Deadline


async def test_an_order_past_its_deadline_expires_instead_of_being_sent(
    ledger: Ledger, redis: Redis, make_order: MakeOrder
):
    now = await server_ms(redis)
    order_id = await submitted(
        ledger,
        make_order(created_at=from_epoch_ms(now), expires_at=from_epoch_ms(now + 20)),
    )

    async def expired() -> bool:
        return await claim_unless_fresh() == NotClaimed("expired")

    async def claim_unless_fresh() -> ClaimAnswer | None:
        return await claim(ledger, order_id) if await server_ms(redis) > now + 20 else None

    await eventually(expired)
    assert await state_of(ledger, order_id) is S.EXPIRED
    assert await redis.zcard(keys.QUEUE) == 0


async def test_an_order_that_waits_is_looked_at_when_its_deadline_passes(
    ledger: Ledger, redis: Redis, make_order: MakeOrder
):
    order = make_order()
    order_id = await submitted(ledger, order)
    until = (order.expires_at - datetime.now(UTC)).total_seconds() + 3600
    await attempt(ledger, order_id, Decision(S.RETRYABLE, "not_sent", "no", wait_s=until))
    assert await redis.zscore(keys.QUEUE, order_id) == to_epoch_ms(order.expires_at)


async def test_a_deadline_that_passes_after_an_unanswered_attempt_is_a_doubt(
    ledger: Ledger, redis: Redis, make_order: MakeOrder
):
    order_id = await bring(ledger, make_order(), S.IN_DOUBT)
    assert await reconcile(ledger, order_id, 1, SAME_KEY) is Act.DONE
    await expire(redis, order_id)
    assert await claim(ledger, order_id) == NotClaimed("in_doubt")
    progress = await ledger.progress(order_id)
    assert progress is not None
    assert (progress.state, progress.rule) == (S.IN_DOUBT, OVERDUE.rule)


# Settle


async def test_state_and_result_are_written_in_the_same_breath(
    ledger: Ledger, redis: Redis, make_order: MakeOrder
):
    order_id = await submitted(ledger, make_order())
    async with redis.pubsub() as listener:
        await listener.subscribe(keys.MOVES)
        await attempt(ledger, order_id, PLACED)
        moves: list[dict[str, str]] = []
        async with asyncio.timeout(60):
            while len(moves) < 2:
                if said := await listener.get_message(ignore_subscribe_messages=True, timeout=1):
                    moves.extend(json.loads(said["data"]))
    assert moves == [
        {"order_id": order_id, "state": "SENDING"},
        {"order_id": order_id, "state": "PLACED"},
    ]
    progress, result = await ledger.progress(order_id), await ledger.result(order_id)
    assert progress is not None
    assert result is not None
    assert (
        (progress.state, progress.call_sid) == (result.state, result.call_sid) == ("PLACED", "CA1")
    )
    assert await redis.exists(keys.job(order_id)) == 0


@pytest.mark.parametrize("decision", [PLACED, REFUSED, DEAD, IN_DOUBT, AGAIN])
async def test_there_is_a_result_once_there_is_an_answer(
    ledger: Ledger, make_order: MakeOrder, decision: Decision
):
    order_id = await submitted(ledger, make_order())
    await attempt(ledger, order_id, decision)
    result = await ledger.result(order_id)
    if decision.to in ENDED | {S.IN_DOUBT}:
        assert result is not None
        assert (result.state, result.rule) == (decision.to, decision.rule)
    else:
        assert result is None


@pytest.mark.parametrize("decision", [PLACED, REFUSED, DEAD, IN_DOUBT, AGAIN])
async def test_a_settle_with_an_old_token_is_lost_and_writes_nothing(
    ledger: Ledger, redis: Redis, make_order: MakeOrder, decision: Decision
):
    order_id = await submitted(ledger, make_order())
    old = await lose_lease(ledger, order_id)
    await ledger.resolve(order_id, call_sid=None, by="ada", why="nothing rang")
    await claimed(ledger, order_id)
    before = await everything(redis)
    assert await settle(ledger, order_id, old, decision) is Act.LOST
    assert await settle(ledger, order_id, 99, decision) is Act.LOST
    assert await everything(redis) == before


@pytest.mark.parametrize("decision", [PLACED, REFUSED, DEAD, IN_DOUBT, AGAIN, BUSY])
async def test_a_settle_sent_again_is_done_and_writes_once(
    ledger: Ledger, redis: Redis, make_order: MakeOrder, decision: Decision
):
    order_id = await submitted(ledger, make_order())
    token = await attempt(ledger, order_id, decision)
    before = await everything(redis)
    assert await settle(ledger, order_id, token, decision) is Act.DONE
    assert await everything(redis) == before


async def test_a_settle_before_any_claim_is_lost(ledger: Ledger, make_order: MakeOrder):
    order_id = await submitted(ledger, make_order())
    assert await settle(ledger, order_id, 0, PLACED) is Act.LOST
    assert await settle(ledger, NOBODY, 1, PLACED) is Act.UNKNOWN


@pytest.mark.parametrize("to", [S.QUEUED, S.SENDING, S.EXPIRED])
async def test_a_move_that_is_not_in_the_table_is_refused_and_writes_nothing(
    ledger: Ledger, redis: Redis, make_order: MakeOrder, to: OrderState
):
    order_id = await submitted(ledger, make_order())
    token = (await claimed(ledger, order_id)).token
    before = await everything(redis)
    with pytest.raises(Exception, match=f"illegal move from SENDING to {to}"):
        await settle(ledger, order_id, token, Decision(to, "rule", "reason"))
    assert await everything(redis) == before


async def test_a_busy_handler_costs_no_attempt(ledger: Ledger, make_order: MakeOrder):
    order_id = await submitted(ledger, make_order())
    for _ in range(3):
        await attempt(ledger, order_id, BUSY)
    await attempt(ledger, order_id, AGAIN)
    answer = await claimed(ledger, order_id)
    assert (answer.attempt, answer.tries.spent) == (5, 2)


async def test_a_late_answer_still_counts_while_nobody_else_was_given_the_order(
    ledger: Ledger, redis: Redis, make_order: MakeOrder
):
    order_id = await submitted(ledger, make_order())
    token = await lose_lease(ledger, order_id)
    assert await settle(ledger, order_id, token, PLACED) is Act.DONE
    progress = await ledger.progress(order_id)
    assert progress is not None
    assert (progress.state, progress.call_sid) == (S.PLACED, "CA1")
    assert (progress.unanswered, progress.deaths) == (0, 0)
    assert not await redis.keys(keys.fence("*"))


async def test_a_late_answer_clears_its_own_attempt_and_no_earlier_one(
    ledger: Ledger, redis: Redis, make_order: MakeOrder
):
    order = make_order()
    order_id = await bring(ledger, order, S.IN_DOUBT)
    await reconcile(ledger, order_id, 1, SAME_KEY)
    token = await lose_lease(ledger, order_id)
    assert await settle(ledger, order_id, token, AGAIN) is Act.DONE
    progress = await ledger.progress(order_id)
    assert progress is not None
    assert (progress.unanswered, progress.deaths) == (1, 0)
    assert await redis.smembers(keys.fence(order.destination())) == {order_id}  # type: ignore[misc]


async def test_a_late_answer_that_does_not_know_either_changes_nothing(
    ledger: Ledger, redis: Redis, make_order: MakeOrder
):
    order_id = await submitted(ledger, make_order())
    token = await lose_lease(ledger, order_id)
    before = await everything(redis)
    assert await settle(ledger, order_id, token, IN_DOUBT) is Act.DONE
    assert await everything(redis) == before


async def test_a_late_answer_is_lost_once_the_doubt_is_cleared(
    ledger: Ledger, redis: Redis, make_order: MakeOrder
):
    order_id = await submitted(ledger, make_order())
    token = await lose_lease(ledger, order_id)
    await ledger.resolve(order_id, call_sid="CA2", by="ada", why="I asked")
    before = await everything(redis)
    assert await settle(ledger, order_id, token, AGAIN) is Act.LOST
    assert await everything(redis) == before


async def test_a_late_answer_is_lost_once_somebody_took_the_order_back(
    ledger: Ledger, redis: Redis, make_order: MakeOrder
):
    order_id = await submitted(ledger, make_order())
    token = await lose_lease(ledger, order_id)
    assert await reconcile(ledger, order_id, token, SAME_KEY) is Act.DONE
    assert await ledger.cancel(order_id, by="ada", why="no appetite") is Cancellation.IN_DOUBT
    before = await everything(redis)
    assert await settle(ledger, order_id, token, AGAIN) is Act.LOST
    assert await everything(redis) == before


async def test_history_has_every_move_with_who_why_and_the_evidence(
    ledger: Ledger, register: Register, make_order: MakeOrder
):
    order_id = await submitted(ledger, make_order())
    await attempt(ledger, order_id, AGAIN)
    await attempt(ledger, order_id, IN_DOUBT)
    await ledger.resolve(order_id, call_sid="CA9", by="ada", why="Luigi says it rang")
    moves = await register.history(order_id)
    assert [(move.from_state, move.to_state, move.by, move.attempt) for move in moves] == [
        ("", "QUEUED", "owner", 0),
        ("QUEUED", "SENDING", "worker-1", 1),
        ("SENDING", "RETRYABLE", "worker-1", 1),
        ("RETRYABLE", "SENDING", "worker-1", 2),
        ("SENDING", "IN_DOUBT", "worker-1", 2),
        ("IN_DOUBT", "PLACED", "ada", 2),
    ]
    assert [move.evidence for move in moves] == [None, None, EVIDENCE, None, EVIDENCE, None]
    assert moves[-1].reason == "Luigi says it rang"
    assert moves == sorted(moves, key=lambda move: move.at)


@pytest.mark.parametrize("words", ['quo"te', "line\nend", "ünïcödé ☎", "back\\slash", ""])
async def test_what_the_world_says_is_kept_as_it_was_said(
    ledger: Ledger, register: Register, make_order: MakeOrder, words: str
):
    order_id = await submitted(ledger, make_order())
    token = (await claimed(ledger, order_id)).token
    decision = Decision(S.REFUSED, "refused", words)
    await ledger.settle(order_id, token, decision, evidence={"excerpt": words}, by="worker-1")
    last = (await register.history(order_id))[-1]
    result = await ledger.result(order_id)
    assert result is not None
    assert (last.reason, last.evidence, result.reason) == (words, {"excerpt": words}, words)


# Acts of persons and of the recoverer


async def reconcile(ledger: Ledger, order_id: str, token: int, decision: Decision) -> Act:
    return await ledger.reconcile(order_id, token, decision, evidence={}, by="recoverer")


CANCELLED = {
    S.QUEUED: Cancellation.CANCELLED,
    S.RETRYABLE: Cancellation.CANCELLED,
    S.SENDING: Cancellation.SENDING,
    S.IN_DOUBT: Cancellation.IN_DOUBT,
} | dict.fromkeys(ENDED, Cancellation.TOO_LATE)


@pytest.mark.parametrize("state", S)
async def test_cancelling_is_truthful_in_every_state(
    ledger: Ledger, redis: Redis, make_order: MakeOrder, state: OrderState
):
    order_id = await bring(ledger, make_order(), state)
    before = await everything(redis)
    answer = await ledger.cancel(order_id, by="ada", why="no appetite")
    assert answer is CANCELLED[state]
    if answer is Cancellation.CANCELLED:
        assert await state_of(ledger, order_id) is S.CANCELLED
        assert await claim(ledger, order_id) == NotClaimed("ended", "CANCELLED")
    elif answer is Cancellation.TOO_LATE:
        assert await everything(redis) == before
    else:
        assert await state_of(ledger, order_id) is state


async def test_a_wish_to_have_it_back_is_minded_as_soon_as_it_is_sure_that_it_did_not_ring(
    ledger: Ledger, make_order: MakeOrder
):
    sent = await submitted(ledger, make_order())
    token = (await claimed(ledger, sent)).token
    assert await ledger.cancel(sent, by="ada", why="no appetite") is Cancellation.SENDING
    assert await settle(ledger, sent, token, AGAIN) is Act.DONE
    assert await state_of(ledger, sent) is S.CANCELLED

    doubtful = await bring(ledger, make_order(), S.IN_DOUBT)
    assert await ledger.cancel(doubtful, by="ada", why="no appetite") is Cancellation.IN_DOUBT
    assert await reconcile(ledger, doubtful, 1, SAME_KEY) is Act.DONE
    assert await state_of(ledger, doubtful) is S.IN_DOUBT, "sending is asking, and it may ring"
    assert await ledger.resolve(doubtful, call_sid=None, by="ada", why="asked") is Act.DONE
    assert await state_of(ledger, doubtful) is S.CANCELLED


async def test_a_late_word_that_it_rang_is_never_lost(ledger: Ledger, make_order: MakeOrder):
    waiting = await bring(ledger, make_order(), S.IN_DOUBT)
    assert await reconcile(ledger, waiting, 1, SAME_KEY) is Act.DONE
    progress = await ledger.progress(waiting)
    assert progress is not None
    assert progress.state is S.RETRYABLE
    if progress.rule != "unanswered":
        redis = ledger.redis
        await redis.hdel(keys.record(waiting), "settled")  # type: ignore[misc]  # its worker was thought dead
    assert await settle(ledger, waiting, 1, PLACED) is Act.DONE
    assert await state_of(ledger, waiting) is S.PLACED

    ended = await submitted(ledger, make_order())
    token = (await claimed(ledger, ended)).token
    await settle(ledger, ended, token, AGAIN)
    assert await ledger.cancel(ended, by="ada", why="why not") is Cancellation.CANCELLED
    await ledger.redis.hdel(keys.record(ended), "settled")  # type: ignore[misc]
    assert await settle(ledger, ended, token, PLACED) is Act.LOST
    known = await ledger.progress(ended)
    assert known is not None
    assert (known.state, known.call_sid) == (S.CANCELLED, PLACED.call_sid)
    assert "may have rung" in did_it_ring(known)


async def test_an_act_sent_again_after_a_lost_answer_is_answered_again(
    ledger: Ledger, make_order: MakeOrder, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr("shared.ledger.uuid.uuid4", lambda: uuid.UUID(int=7))
    order_id = await submitted(ledger, make_order())
    for _ in range(2):
        answer = await ledger.cancel(order_id, by="ada", why="no appetite")
        assert answer is Cancellation.CANCELLED


async def test_an_order_that_may_have_rung_elsewhere_is_not_sent_to_another_handler(
    ledger: Ledger, make_order: MakeOrder
):
    order_id = await submitted(ledger, make_order())
    first = await ledger.claim(order_id, Terms("w", 60, LOST, OVERDUE, handler="one"))
    assert isinstance(first, Claimed)
    await settle(ledger, order_id, first.token, IN_DOUBT)
    await reconcile(ledger, order_id, first.token, SAME_KEY)
    second = await ledger.claim(order_id, Terms("w", 60, LOST, OVERDUE, handler="two"))
    assert second == NotClaimed("in_doubt")


async def test_an_order_held_back_before_it_came_is_refused_when_it_comes(
    ledger: Ledger, make_order: MakeOrder
):
    order = make_order()
    answer = await ledger.cancel(order.order_id, by="ada", why="no", even_if_unknown=True)
    assert answer is Cancellation.CANCELLED
    assert await ledger.submit(order) is Submission.CONFLICT
    assert await state_of(ledger, order.order_id) is S.CANCELLED


async def test_cancelling_what_may_have_rung_says_in_doubt_and_never_sends_it_again(
    ledger: Ledger, redis: Redis, make_order: MakeOrder
):
    order_id = await bring(ledger, make_order(), S.IN_DOUBT)
    await reconcile(ledger, order_id, 1, SAME_KEY)
    assert await ledger.cancel(order_id, by="ada", why="no appetite") is Cancellation.IN_DOUBT
    assert await claim(ledger, order_id) == NotClaimed("ended", "IN_DOUBT")
    assert await redis.zcard(keys.DOUBTS) == 0  # a person's to find out


@pytest.mark.parametrize("state", S)
async def test_only_a_dead_order_is_requeued(
    ledger: Ledger, redis: Redis, make_order: MakeOrder, state: OrderState
):
    order_id = await bring(ledger, make_order(), state)
    before = await everything(redis)
    answer = await ledger.requeue(order_id, by="ada", why="again")
    if state is S.DEAD:
        assert answer is Act.DONE
        assert await state_of(ledger, order_id) is S.QUEUED
    else:
        assert answer is Act.NOT_DEAD
        assert await everything(redis) == before


async def test_a_requeued_order_has_all_its_attempts_and_its_time_again(
    ledger: Ledger, register: Register, redis: Redis, make_order: MakeOrder
):
    order_id = await bring(ledger, make_order(), S.DEAD)
    await expire(redis, order_id)
    await ledger.requeue(order_id, by="ada", why="the handler is back")
    assert await ledger.result(order_id) is None
    assert await redis.exists(keys.job(order_id))
    answer = await claimed(ledger, order_id)
    assert (answer.attempt, answer.tries.spent) == (2, 1)
    assert timedelta(minutes=59) < answer.expires_at - datetime.now(UTC) <= timedelta(hours=1)
    acts = [move for move in await register.history(order_id) if move.by == "ada"]
    assert [(act.rule, act.reason) for act in acts] == [("requeued", "the handler is back")]


@pytest.mark.parametrize("call_sid", ["CA7", None])
@pytest.mark.parametrize("state", S)
async def test_only_a_doubt_is_resolved(
    ledger: Ledger, redis: Redis, make_order: MakeOrder, state: OrderState, call_sid: str | None
):
    order = make_order()
    order_id = await bring(ledger, order, state)
    before = await everything(redis)
    answer = await ledger.resolve(order_id, call_sid=call_sid, by="ada", why="I asked Luigi")
    if state is S.IN_DOUBT:
        assert answer is Act.DONE
        assert await state_of(ledger, order_id) is (S.PLACED if call_sid else S.RETRYABLE)
        assert not await redis.keys(keys.fence("*"))
    else:
        assert answer is Act.MOVED_ON
        assert await everything(redis) == before


async def test_nobody_acts_on_an_order_that_never_was(ledger: Ledger, redis: Redis):
    assert await ledger.cancel(NOBODY, by="ada", why="?") is Cancellation.UNKNOWN
    assert await ledger.requeue(NOBODY, by="ada", why="?") is Act.UNKNOWN
    assert await ledger.resolve(NOBODY, call_sid=None, by="ada", why="?") is Act.UNKNOWN
    assert not await ledger.recover(NOBODY, LOST, by="recoverer")
    assert not await ledger.restore_job(NOBODY)
    assert await ledger.progress(NOBODY) is None
    assert await everything(redis) == {}


async def test_an_answer_about_an_earlier_attempt_never_speaks_for_a_later_one(
    ledger: Ledger, redis: Redis, make_order: MakeOrder
):
    order_id = await bring(ledger, make_order(), S.IN_DOUBT)
    await reconcile(ledger, order_id, 1, SAME_KEY)
    await attempt(ledger, order_id, IN_DOUBT)
    before = await everything(redis)
    found = Decision(S.RETRYABLE, "found_unplaced", "never seen", wait_s=0, clears_doubt=True)
    assert await reconcile(ledger, order_id, 1, found) is Act.MOVED_ON
    assert await everything(redis) == before
    assert await reconcile(ledger, order_id, 2, found) is Act.DONE


async def test_a_doubt_that_stays_is_asked_about_again_or_left_to_a_person(
    ledger: Ledger, register: Register, redis: Redis, make_order: MakeOrder
):
    order_id = await bring(ledger, make_order(), S.IN_DOUBT)
    away = Decision(S.IN_DOUBT, "cannot_tell", "away", wait_s=60)
    assert await reconcile(ledger, order_id, 1, away) is Act.DONE
    assert await redis.zscore(keys.DOUBTS, order_id) > await server_ms(redis) + 30_000
    several = Decision(S.IN_DOUBT, "found_several", "2 calls would fit")
    assert await reconcile(ledger, order_id, 1, several) is Act.DONE
    assert await redis.zscore(keys.DOUBTS, order_id) is None
    assert (await register.history(order_id))[-1].rule == "found_several"
    progress = await ledger.progress(order_id)
    assert progress is not None
    assert (progress.state, progress.reason) == (S.IN_DOUBT, "2 calls would fit")


async def test_a_lease_that_holds_is_not_recovered(
    ledger: Ledger, redis: Redis, make_order: MakeOrder
):
    order_id = await bring(ledger, make_order(), S.SENDING)
    before = await everything(redis)
    assert not await ledger.recover(order_id, LOST, by="recoverer")
    assert await everything(redis) == before


# The fence


async def test_while_one_is_in_doubt_another_to_the_same_number_waits_for_it(
    ledger: Ledger, make_order: MakeOrder
):
    doubtful = await bring(ledger, make_order(), S.IN_DOUBT)
    waiting = await submitted(ledger, make_order())
    assert await claim(ledger, waiting) == NotClaimed("fenced", doubtful)
    progress = await ledger.progress(waiting)
    assert progress is not None
    assert (progress.state, progress.attempt, progress.waits_for) == (S.QUEUED, 0, doubtful)
    assert doubtful in str(why_it_waits(progress))
    why = (await claim(ledger, waiting)).why  # type: ignore[union-attr]
    assert why == "not_due"


async def test_another_number_or_another_owner_does_not_wait(ledger: Ledger, make_order: MakeOrder):
    await bring(ledger, make_order(), S.IN_DOUBT)
    for free in (make_order(owner="eve"), make_order(target_phone_number="+14155550100")):
        await attempt(ledger, await submitted(ledger, free), PLACED)


@pytest.mark.parametrize("call_sid", ["CA1", None])
async def test_the_fence_lifts_when_the_doubt_is_resolved(
    ledger: Ledger, redis: Redis, make_order: MakeOrder, call_sid: str | None
):
    doubtful = await bring(ledger, make_order(), S.IN_DOUBT)
    waiting = await submitted(ledger, make_order())
    assert await claim(ledger, waiting) == NotClaimed("fenced", doubtful)
    await ledger.resolve(doubtful, call_sid=call_sid, by="ada", why="I asked")
    await redis.hset(keys.record(waiting), "due", "0")  # type: ignore[misc]
    await attempt(ledger, waiting, PLACED)
    progress = await ledger.progress(waiting)
    assert progress is not None
    assert progress.waits_for is None


async def test_the_fence_stands_while_the_same_key_is_sent_again(
    ledger: Ledger, make_order: MakeOrder
):
    doubtful = await bring(ledger, make_order(), S.IN_DOUBT)
    await reconcile(ledger, doubtful, 1, SAME_KEY)
    waiting = await submitted(ledger, make_order())
    assert await claim(ledger, waiting) == NotClaimed("fenced", doubtful)
    await attempt(ledger, doubtful, PLACED)


async def test_two_that_may_both_have_rung_do_not_wait_for_each_other(
    ledger: Ledger, redis: Redis, make_order: MakeOrder
):
    first, second = [await submitted(ledger, make_order()) for _ in range(2)]
    for place, order_id in enumerate((first, second)):
        await redis.zadd(keys.ORDERS, {order_id: place})  # told apart though they came at once
        await claimed(ledger, order_id)
    for order_id in (first, second):
        assert await settle(ledger, order_id, 1, IN_DOUBT) is Act.DONE
        assert await reconcile(ledger, order_id, 1, SAME_KEY) is Act.DONE
    assert await claim(ledger, second) == NotClaimed("fenced", first)
    await attempt(ledger, first, PLACED)
    await redis.hset(keys.record(second), "due", "0")  # type: ignore[misc]
    await attempt(ledger, second, PLACED)
    assert not await redis.keys(keys.fence("*"))


async def test_an_order_cancelled_behind_the_fence_waits_for_nothing_any_more(
    ledger: Ledger, make_order: MakeOrder
):
    await bring(ledger, make_order(), S.IN_DOUBT)
    waiting = await submitted(ledger, make_order())
    await claim(ledger, waiting)
    assert await ledger.cancel(waiting, by="ada", why="x") is Cancellation.CANCELLED
    progress = await ledger.progress(waiting)
    assert progress is not None
    assert why_it_waits(progress) is None
    assert did_it_ring(progress).startswith("No")


async def test_a_settled_attempt_that_speaks_for_all_earlier_ones_lifts_the_fence(
    ledger: Ledger, redis: Redis, make_order: MakeOrder
):
    order_id = await bring(ledger, make_order(), S.IN_DOUBT)
    await reconcile(ledger, order_id, 1, SAME_KEY)
    none_rang = Decision(S.RETRYABLE, "not_sent", "none", wait_s=0, clears_doubt=True)
    await attempt(ledger, order_id, none_rang)
    assert not await redis.keys(keys.fence("*"))


# Jobs, indexes, and the store's own life


async def test_a_waiting_order_that_fell_out_of_the_queue_is_put_back(
    ledger: Ledger, redis: Redis, make_order: MakeOrder
):
    order_id = await submitted(ledger, make_order())
    await attempt(ledger, order_id, MUCH_LATER)
    due = await redis.zscore(keys.QUEUE, order_id)
    await redis.delete(keys.QUEUE, keys.job(order_id))
    assert await ledger.restore_job(order_id)
    assert await redis.zscore(keys.QUEUE, order_id) == due
    assert await redis.exists(keys.job(order_id))
    assert not await ledger.restore_job(order_id)


@pytest.mark.parametrize("state", sorted(set(S) - WAITING))
async def test_what_does_not_wait_is_not_put_back(
    ledger: Ledger, redis: Redis, make_order: MakeOrder, state: OrderState
):
    order_id = await bring(ledger, make_order(), state)
    before = await everything(redis)
    assert not await ledger.restore_job(order_id)
    assert await everything(redis) == before


async def test_what_is_due_is_put_off_so_that_two_do_not_ask_at_once(ledger: Ledger, redis: Redis):
    now = await server_ms(redis)
    await redis.zadd(keys.DOUBTS, {"a": now - 2, "b": now - 1, "c": now + 60_000})
    seen = await ledger.look(leases=1, doubts=1)
    assert seen.doubts == ["a"]
    seen = await ledger.look(leases=1, doubts=5, put_off_s=0.1)
    assert seen.doubts == ["a", "b"]
    assert seen.next_doubt_s == pytest.approx(60, abs=5)

    async def due_again() -> list[str]:
        return (await ledger.look(leases=1, doubts=5)).doubts

    assert await eventually(due_again) == ["a", "b"]
    assert await server_ms(redis) >= now + 100


async def test_a_wakeup_is_a_hint_that_may_be_missed(
    ledger: Ledger, redis: Redis, make_order: MakeOrder
):
    order_id = await submitted(ledger, make_order())
    await redis.delete(keys.WAKEUP)
    assert await ledger.announced(10, 0.01) == []
    due = await ledger.claim_due(Question(0, limit=10), Terms("w", 60, LOST, OVERDUE))
    assert list(due.answers) == [order_id]


async def test_scripts_that_the_server_forgot_are_sent_again(
    ledger: Ledger, redis: Redis, make_order: MakeOrder
):
    order = make_order()
    await redis.script_flush()
    order_id = await submitted(ledger, order)
    await redis.script_flush()
    token = (await claimed(ledger, order_id)).token
    await redis.script_flush()
    assert await settle(ledger, order_id, token, PLACED) is Act.DONE
    await redis.script_flush()
    assert await state_of(ledger, order_id) is S.PLACED


async def test_the_register_counts_and_lists_what_the_ledger_did(
    ledger: Ledger, register: Register, make_order: MakeOrder
):
    order_of = {state: await bring(ledger, make_order(owner=f"{state}"), state) for state in S}
    assert await register.counts() == dict.fromkeys(S, 1)
    assert {order.order_id for order in await register.newest()} == set(order_of.values())
    for state, order_id in order_of.items():
        assert [order.order_id for order in await register.newest(state=state)] == [order_id]
        assert [found async for found in register.ids(state)] == [order_id]
    assert [await register.queued(state) for state in WAITING] == [1] * len(WAITING)


async def test_the_register_yields_each_id_once_however_many_moved_in_one_millisecond(
    register: Register, redis: Redis
):
    ids = {f"ord_{n:08}": float(n // 7) for n in range(100)}
    await redis.zadd(keys.state(S.QUEUED), ids)
    found = [order_id async for order_id in register.ids(S.QUEUED, batch=3)]
    assert found == sorted(ids)
