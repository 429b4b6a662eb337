"""Whatever is done to the ledger in whatever order, the scripts and the model of them agree."""

import asyncio
import json
import uuid
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Any, Literal

import pytest
from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)
from redis.exceptions import ResponseError

from shared import keys
from shared import ledger as ledger_module
from shared.claim import Claimed, NotClaimed, Terms
from shared.ledger import Ledger
from shared.lifecycle import ENDED, WAITING, Decision, OrderState
from shared.order import CallOrder
from shared.redis_pool import ledger_client
from tests.fakes.ledger_model import IllegalMove, LedgerModel, ModelOrder

S = OrderState

LONG_S = 3600.0
LONG_AGO_MS = 1
NUMBERS = ["+12025550123", "+12025550123", "+12025550123", "+14155550100", "+14155550100"]
IDS = [f"ord_0000000{n}" for n, _ in enumerate(NUMBERS)]
NOW = datetime.now(UTC)
LOST: dict[float | None, Decision] = {
    wait_s: Decision(S.IN_DOUBT, "lease_ran_out", "not heard of", wait_s=wait_s)
    for wait_s in (None, 9.0)
}
OVERDUE = Decision(S.IN_DOUBT, "overdue_after_unanswered", "too late")

UNANSWERED = Decision(S.IN_DOUBT, "unanswered", "no answer", wait_s=0)
SAME_KEY = Decision(S.RETRYABLE, "same_key_again", "it will not ring twice", wait_s=0)

waits = st.sampled_from([None, 0, LONG_S])
decisions = st.one_of(
    st.builds(
        Decision,
        to=st.sampled_from([S.PLACED, S.REFUSED, S.DEAD]),
        rule=st.just("settled"),
        reason=st.just("reason"),
        call_sid=st.sampled_from([None, "CA1", "CA2"]),
        clears_doubt=st.booleans(),
    ),
    st.builds(
        Decision,
        to=st.sampled_from([S.RETRYABLE, S.IN_DOUBT]),
        rule=st.just("open"),
        reason=st.just("reason"),
        wait_s=waits,
        spends_attempt=st.booleans(),
    ),
    st.builds(
        Decision,
        to=st.sampled_from(S),  # most of these are illegal
        rule=st.just("any"),
        reason=st.just("reason"),
        wait_s=waits,
        clears_doubt=st.booleans(),
    ),
)
tokens = st.sampled_from([0, 0, -1, 1])  # relative to the last that was given out


def wish(order_id: str, instructions: str = "pizza") -> CallOrder:
    return CallOrder(
        order_id=order_id,
        target_phone_number=NUMBERS[IDS.index(order_id)],
        final_instructions=instructions,
        created_at=NOW,
        expires_at=NOW + timedelta(days=1),
    )


def there_is(*states: OrderState) -> Callable[["LedgerMachine"], bool]:
    """Say that a rule is worth playing only while an order is in one of `states`."""
    return lambda self: any(order.state in states for order in self.model.orders.values())


class LedgerMachine(RuleBasedStateMachine):
    """Workers, recoverers and persons, each at any moment, on a few orders to two numbers."""

    def __init__(self, url: str) -> None:
        super().__init__()
        self.runner = asyncio.Runner()
        self.redis = ledger_client(url, patience_s=2)
        self.ledger = Ledger(self.redis)
        self.model = LedgerModel()
        self.given_out: dict[str, int] = {}
        self.ended: dict[str, OrderState] = {}
        self.do(self.redis.ping())

    def do(self, question: Any) -> Any:
        return self.runner.run(question)

    def teardown(self) -> None:
        self.do(self.redis.flushdb())
        self.do(self.redis.aclose())
        self.runner.close()

    def known(self, order_id: str) -> bool:
        return order_id in self.model.orders

    def pick(self, data: st.DataObject, *likely: OrderState) -> str:
        """Draw an order, mostly one in a `likely` state, sometimes any."""
        orders = self.model.orders.items()
        fitting = [order_id for order_id, order in orders if order.state in likely]
        return data.draw(st.sampled_from(fitting * 9 + IDS), label="order")

    def write(self, key: str, **fields: int) -> None:
        self.do(self.redis.hset(key, mapping=fields))

    # What the conversation does

    @initialize()
    def begin(self) -> None:
        for order_id in IDS[:-1]:
            self.hand_in(order_id, "pizza")

    @rule(order_id=st.sampled_from(IDS), instructions=st.sampled_from(["pizza", "salad"]))
    def submit(self, order_id: str, instructions: str) -> None:
        self.hand_in(order_id, instructions)

    def hand_in(self, order_id: str, instructions: str) -> None:
        order = wish(order_id, instructions)
        answer = self.do(self.ledger.submit(order))
        assert answer == self.model.submit(order_id, instructions, order.destination())
        came = self.model.orders[order_id].came
        self.do(self.redis.zadd(keys.ORDERS, {order_id: came}))  # more than a millisecond apart

    @precondition(there_is(S.RETRYABLE, S.SENDING, S.IN_DOUBT))
    @rule(data=st.data())
    def cancel(self, data: st.DataObject) -> None:
        order_id = self.pick(data, S.RETRYABLE, S.SENDING, S.IN_DOUBT)
        if self.known(order_id):
            answer = self.do(self.ledger.cancel(order_id, by="ada", why="no appetite"))
            assert answer == self.model.cancel(order_id)

    # What workers do

    @rule(data=st.data(), wait_s=st.sampled_from([None, 9.0]), again=st.booleans())
    def claim(self, data: st.DataObject, wait_s: float | None, again: bool) -> None:
        self.ask_for(self.pick(data, *WAITING, S.SENDING), wait_s, again=again)

    @precondition(there_is(*WAITING))
    @rule(data=st.data(), decision=decisions)
    def attempt(self, data: st.DataObject, decision: Decision) -> None:
        order_id = self.pick(data, *WAITING)
        self.ask_for(order_id, None, again=False)
        self.answer(order_id, 0, decision)

    @precondition(there_is(*WAITING))
    @rule(data=st.data(), two=st.booleans(), again=st.booleans())
    def go_unanswered(self, data: st.DataObject, two: bool, again: bool) -> None:
        order_ids = sorted({self.pick(data, *WAITING) for _ in range(1 + two)})
        for order_id in order_ids:
            self.ask_for(order_id, None, again=False)
        for order_id in order_ids:
            self.answer(order_id, 0, UNANSWERED)
            if again:
                self.find_out(order_id, 0, SAME_KEY)

    @precondition(there_is(*WAITING))
    @rule(data=st.data(), again=st.booleans())
    def die(self, data: st.DataObject, again: bool) -> None:
        order_id = self.pick(data, *WAITING)
        self.ask_for(order_id, None, again=False)
        self.let_pass(order_id, "lease")
        self.ask_for(order_id, None, again=False)
        if again:
            self.find_out(order_id, 0, SAME_KEY)

    def ask_for(self, order_id: str, wait_s: float | None, *, again: bool) -> None:
        before = self.model.orders.get(order_id)
        claim_id = uuid.uuid4()
        if again and before is not None and before.claim is not None:
            claim_id = uuid.UUID(before.claim)
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(uuid, "uuid4", lambda: claim_id)
            answer = self.do(self.ledger.claim(order_id, Terms("w", LONG_S, LOST[wait_s], OVERDUE)))
        expected = self.model.claim(order_id, claim_id.hex, LOST[wait_s], OVERDUE)
        if isinstance(answer, Claimed):
            assert ("claimed", answer.token) == expected
            order = self.model.orders[order_id]
            assert answer.attempt == order.attempt
            assert answer.tries.spent == order.attempt - order.free
            assert (answer.tries.unanswered, answer.tries.deaths) == (
                order.unanswered,
                order.deaths,
            )
            if before is not None and before.state is not S.SENDING:
                assert answer.token > self.given_out.get(order_id, 0)
                assert order_id not in self.ended
            self.given_out[order_id] = answer.token
        else:
            assert isinstance(answer, NotClaimed)
            assert answer.why == expected[0]
            if answer.why == "fenced":  # any of several may be named
                fence = self.model.behind_the_fence(self.model.orders[order_id].destination)
                assert answer.detail in fence - {order_id}
                self.model.orders[order_id].waits_for = answer.detail

    @precondition(there_is(S.SENDING, S.IN_DOUBT))
    @rule(data=st.data(), relative=tokens, decision=decisions)
    def settle(self, data: st.DataObject, relative: int, decision: Decision) -> None:
        self.answer(self.pick(data, S.SENDING, S.IN_DOUBT), relative, decision)

    def answer(self, order_id: str, relative: int, decision: Decision) -> None:
        token = self.given_out.get(order_id, 0) + relative
        question = self.ledger.settle(order_id, token, decision, evidence={"n": 1}, by="w")
        try:
            expected = self.model.settle(order_id, token, decision)
        except IllegalMove:
            with pytest.raises(ResponseError, match="illegal move"):
                self.do(question)
        else:
            assert self.do(question) == expected

    # What recoverers and persons do

    @precondition(there_is(S.SENDING))
    @rule(data=st.data(), wait_s=st.sampled_from([None, 9.0]))
    def recover(self, data: st.DataObject, wait_s: float | None) -> None:
        order_id = self.pick(data, S.SENDING)
        if self.known(order_id):
            answer = self.do(self.ledger.recover(order_id, LOST[wait_s], by="r"))
            assert answer == self.model.recover(order_id, LOST[wait_s])

    @precondition(there_is(S.IN_DOUBT))
    @rule(data=st.data(), relative=tokens, decision=decisions)
    def reconcile(self, data: st.DataObject, relative: int, decision: Decision) -> None:
        self.find_out(self.pick(data, S.IN_DOUBT), relative, decision)

    def find_out(self, order_id: str, relative: int, decision: Decision) -> None:
        token = self.given_out.get(order_id, 0) + relative
        question = self.ledger.reconcile(order_id, token, decision, evidence={"n": 1}, by="r")
        try:
            expected = self.model.reconcile(order_id, token, decision)
        except IllegalMove:
            with pytest.raises(ResponseError, match="illegal move"):
                self.do(question)
        else:
            assert self.do(question) == expected

    @precondition(there_is(S.IN_DOUBT))
    @rule(data=st.data(), call_sid=st.sampled_from([None, "CA9"]))
    def resolve(self, data: st.DataObject, call_sid: str | None) -> None:
        order_id = self.pick(data, S.IN_DOUBT)
        if call_sid is None:
            word = Decision(
                S.RETRYABLE, "resolved_not_placed", "asked", wait_s=0, clears_doubt=True
            )
        else:
            word = Decision(S.PLACED, "resolved_placed", "asked", call_sid=call_sid)
        answer = self.do(self.ledger.resolve(order_id, call_sid=call_sid, by="ada", why="asked"))
        assert answer == self.model.reconcile(order_id, None, word)

    @precondition(there_is(S.DEAD))
    @rule(data=st.data())
    def requeue(self, data: st.DataObject) -> None:
        order_id = self.pick(data, S.DEAD)
        if self.known(order_id):
            answer = self.do(self.ledger.requeue(order_id, by="ada", why="again"))
            assert answer == self.model.requeue(order_id)
            if answer == "done":
                del self.ended[order_id]

    @rule(data=st.data())
    def restore_job(self, data: st.DataObject) -> None:
        order_id = self.pick(data, *WAITING)
        if self.known(order_id):
            assert self.do(self.ledger.restore_job(order_id)) == self.model.restore_job(order_id)

    # What happens by itself

    @rule(data=st.data(), what=st.sampled_from(["lease", "lease", "deadline", "wait"]))
    def time_passes(self, data: st.DataObject, what: Literal["lease", "deadline", "wait"]) -> None:
        likely = {S.SENDING} if what == "lease" else WAITING
        self.let_pass(self.pick(data, *likely), what)

    def let_pass(self, order_id: str, what: Literal["lease", "deadline", "wait"]) -> None:
        order = self.model.orders.get(order_id)
        if order is None or order.state in ENDED:
            return
        if what == "lease" and order.state is S.SENDING:
            self.write(keys.record(order_id), lease=LONG_AGO_MS)
            self.do(self.redis.zadd(keys.LEASES, {order_id: LONG_AGO_MS}))
        if what == "deadline":
            self.write(keys.record(order_id), expires=LONG_AGO_MS)
        if what in {"deadline", "wait"} and order.state in WAITING:
            self.write(keys.record(order_id), due=LONG_AGO_MS)
            self.do(self.redis.zadd(keys.QUEUE, {order_id: LONG_AGO_MS}, xx=True))
        self.model.pass_time(order_id, what)

    @rule(data=st.data())
    def fall_out_of_the_queue(self, data: st.DataObject) -> None:
        order_id = self.pick(data, *WAITING)
        if self.known(order_id):
            self.do(self.redis.zrem(keys.QUEUE, order_id))
            self.model.orders[order_id].in_queue = False

    # What holds at all times

    @invariant()
    def the_store_says_what_the_model_says(self) -> None:
        orders = self.model.orders
        *answers, indexes = self.do(self.look())
        for order, (record, result, job) in zip(orders.values(), answers, strict=True):
            self.record_agrees(order, record)
            self.there_is_an_answer_iff_there_should_be_one(order, result)
            assert job == (order.state not in ENDED)
            history = [json.loads(record[f"move_{n + 1}"]) for n in range(int(record["moves"]))]
            assert tuple((entry["from"], entry["to"]) for entry in history) == order.moves
        assert indexes == self.indexes()

    def record_agrees(self, order: ModelOrder, record: dict[str, str]) -> None:
        assert (record["state"], record.get("rule")) == (order.state, order.rule)
        assert (record.get("call_sid"), record.get("waits_for") or None) == (
            order.call_sid,
            order.waits_for,
        )
        assert [
            int(record.get(count, 0))
            for count in ("token", "attempt", "free", "unanswered", "deaths")
        ] == [order.token, order.attempt, order.free, order.unanswered, order.deaths]

    def there_is_an_answer_iff_there_should_be_one(
        self, order: ModelOrder, result: str | None
    ) -> None:
        if order.state not in ENDED | {S.IN_DOUBT}:
            assert result is None
            return
        assert result is not None
        answer = json.loads(result)
        assert (answer["state"], answer.get("call_sid")) == (order.state, order.call_sid)

    def indexes(self) -> dict[str, set[str]]:
        """Return who stands in which index, as the records have it."""
        standing = {keys.ORDERS: set(self.model.orders)}
        for order_id, order in self.model.orders.items():
            places = {
                keys.state(order.state): True,
                keys.LEASES: order.state is S.SENDING,
                keys.DOUBTS: order.asked_about,
                keys.QUEUE: order.in_queue,
                keys.fence(order.destination): order.fences,
            }
            for place, stands in places.items():
                if stands:
                    standing.setdefault(place, set()).add(order_id)
        return standing

    async def look(self) -> list[Any]:
        """Return every order's keys and, last, all indexes."""
        sorted_sets = [keys.ORDERS, keys.LEASES, keys.DOUBTS, keys.QUEUE, *map(keys.state, S)]
        fences = sorted({keys.fence(wish(order_id).destination()) for order_id in IDS})
        async with self.redis.pipeline(transaction=False) as pipe:
            for order_id in self.model.orders:
                pipe.hgetall(keys.record(order_id))
                pipe.get(keys.result(order_id))
                pipe.exists(keys.job(order_id))
            for key in sorted_sets:
                pipe.zrange(key, 0, -1)
            for key in fences:
                pipe.smembers(key)
            answers = await pipe.execute()
        indexes = sorted_sets + fences
        of_orders, of_indexes = answers[: -len(indexes)], answers[-len(indexes) :]
        named = zip(indexes, of_indexes, strict=True)
        return [
            *zip(*[iter(of_orders)] * 3, strict=True),
            {key: set(members) for key, members in named if members},
        ]

    @invariant()
    def what_has_ended_stays_as_it_ended(self) -> None:
        for order_id, order in self.model.orders.items():
            if order_id in self.ended:
                assert order.state is self.ended[order_id]
            elif order.state in ENDED:
                self.ended[order_id] = order.state


def test_no_order_of_events_makes_scripts_and_model_disagree(
    store_url: str, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(ledger_module, "FENCE_RECHECK_S", LONG_S)
    run_state_machine_as_test(
        lambda: LedgerMachine(store_url),  # type: ignore[arg-type]
        settings=settings(
            max_examples=60,
            stateful_step_count=30,
            deadline=None,
            phases=(Phase.explicit, Phase.reuse, Phase.generate),  # shrinking takes minutes here
            report_multiple_bugs=False,
            suppress_health_check=list(HealthCheck),
        ),
    )
