"""Conversations on a real store and real checkpoints: killed, doubled, stale, reopened."""

import asyncio
import json
import logging
from collections.abc import AsyncIterator, Iterator
from typing import Any

import pytest
import structlog
from redis.asyncio import Redis

from orchestrator.thread_lock import alone
from orchestrator.workflow_manager import (
    StaleReply,
    ThreadBusy,
    Turn,
    UnknownThread,
    WorkflowManager,
    open_workflow_manager,
)
from shared import keys
from shared.claim import Claimed, Terms
from shared.desk import Cancellation, OrderNotAccepted, Submission
from shared.ledger import Act, Ledger
from shared.lifecycle import Decision, OrderState
from shared.log import configure_logging
from shared.order import CallOrder
from shared.progress import OrderProgress, Result
from shared.register import Register
from shared.settings import Settings
from tests.conftest import eventually

PIZZA = "Order a large pepperoni pizza from Luigi's at +1 202 555 0123"
SOUP = "Order a soup from Chez Nous at +1 415 555 0100"
LOST = Decision(OrderState.IN_DOUBT, "lease_ran_out", "not heard of again")
OVERDUE = Decision(OrderState.IN_DOUBT, "overdue_after_unanswered", "its time was up")


class Killed(BaseException):
    """Stands for the end of the process: nothing of ours catches it."""


class FragileDesk:
    """The real desk, in a process that dies before or after it was asked to submit."""

    def __init__(self, ledger: Ledger) -> None:
        self.ledger = ledger
        self.dies: str | None = None
        self.submits = 0

    async def submit(self, order: CallOrder) -> Submission:
        self.submits += 1
        if self.dies == "before":
            raise Killed
        became = await self.ledger.submit(order)
        if self.dies == "after":
            raise Killed
        if self.dies == "unsure":
            raise OrderNotAccepted("the store does not answer", certain=False)
        return became

    async def progress(self, order_id: str) -> OrderProgress | None:
        return await self.ledger.progress(order_id)

    async def result(self, order_id: str) -> Result | None:
        return await self.ledger.result(order_id)

    async def cancel(
        self, order_id: str, *, by: str, why: str, even_if_unknown: bool = False
    ) -> Cancellation:
        return await self.ledger.cancel(order_id, by=by, why=why, even_if_unknown=even_if_unknown)


@pytest.fixture
def quick(settings: Settings) -> Settings:
    return settings.model_copy(update={"await_call_s": 0.0})


@pytest.fixture
def desk(ledger: Ledger) -> FragileDesk:
    return FragileDesk(ledger)


@pytest.fixture
async def manager(
    quick: Settings, desk: FragileDesk, redis: Redis
) -> AsyncIterator[WorkflowManager]:
    async with open_workflow_manager(quick, desk, redis) as opened:
        yield opened


async def send(ledger: Ledger, order_id: str | None) -> int:
    """Claim as a worker does; return the token."""
    terms = Terms(worker="w1", lease_s=60, lost=LOST, overdue=OVERDUE)
    claimed = await ledger.claim(str(order_id), terms)
    assert isinstance(claimed, Claimed)
    return claimed.token


async def place(ledger: Ledger, order_id: str | None, call_sid: str = "CA1") -> None:
    """Claim and settle as a worker does whose call was placed."""
    token = await send(ledger, order_id)
    placed = Decision(OrderState.PLACED, "placed", "the handler named it", call_sid=call_sid)
    assert await ledger.settle(str(order_id), token, placed, evidence={}, by="w1") is Act.DONE


async def waiting(manager: WorkflowManager, task: str = PIZZA) -> Turn:
    """Return the turn of a conversation whose order is handed in."""
    asked = await manager.start(task, "local")
    turn = await manager.continue_(asked.thread_id, "yes", asked.reply_to)
    assert turn.kind == "waiting"
    return turn


async def test_from_a_task_to_a_call(
    settings: Settings, ledger: Ledger, redis: Redis, register: Register
):
    async with open_workflow_manager(settings, ledger, redis) as manager:
        turn = await manager.start("call my dentist", "local", "Alice")
        assert (turn.kind, turn.missing_details) == ("question", ("target_phone_number", "message"))
        turn = await manager.continue_(turn.thread_id, "tell them I am late", turn.reply_to)
        assert (turn.kind, turn.missing_details) == ("question", ("target_phone_number",))
        turn = await manager.continue_(turn.thread_id, "+1 202 555 0123", turn.reply_to)
        assert turn.kind == "confirmation"
        assert await ledger.progress(str(turn.order_id)) is None
        answered = asyncio.create_task(manager.continue_(turn.thread_id, "yes", turn.reply_to))
        async with redis.pubsub() as moves, asyncio.timeout(60):
            await moves.subscribe(keys.MOVES)
            while await ledger.progress(str(turn.order_id)) is None:
                await moves.get_message(ignore_subscribe_messages=True, timeout=0.05)
        await place(ledger, turn.order_id)
        turn = await answered
        assert (turn.kind, turn.call_state, turn.call_sid) == ("report", "PLACED", "CA1")
        assert turn.reply_to is None
    order = await register.body(str(turn.order_id))
    assert order is not None
    assert order.user_name == "Alice"
    assert order.thread_id == turn.thread_id


@pytest.mark.parametrize("dies", ["before", "after"])
async def test_killed_inside_trigger_call_it_goes_on_with_one_order(
    manager: WorkflowManager, desk: FragileDesk, redis: Redis, dies: str
):
    asked = await manager.start(PIZZA, "local")
    desk.dies = dies
    with pytest.raises(Killed):
        await manager.continue_(asked.thread_id, "yes", asked.reply_to)
    desk.dies = None
    seen = await manager.look_up(asked.thread_id)
    assert seen is not None
    assert (seen.kind, seen.reply_to) == ("waiting", None)
    turn = await manager.continue_(asked.thread_id, "yes", asked.reply_to)
    assert (turn.kind, turn.call_state) == ("waiting", "QUEUED")
    assert desk.submits == 2
    assert await redis.zrange(keys.ORDERS, 0, -1) == [asked.order_id]


async def test_an_unsure_store_is_said_and_the_next_message_hands_in_the_same_order(
    manager: WorkflowManager, desk: FragileDesk, redis: Redis
):
    asked = await manager.start(PIZZA, "local")
    desk.dies = "unsure"
    with pytest.raises(OrderNotAccepted, match="may or may not"):
        await manager.continue_(asked.thread_id, "yes")
    desk.dies = None
    turn = await manager.continue_(asked.thread_id, "and?")
    assert (turn.kind, turn.order_id) == ("waiting", asked.order_id)
    assert await redis.zcard(keys.ORDERS) == 1


async def test_a_no_after_a_yes_that_was_cut_off_before_the_store_had_it_orders_nothing(
    manager: WorkflowManager, desk: FragileDesk, redis: Redis
):
    asked = await manager.start(PIZZA, "local")
    desk.dies = "before"
    with pytest.raises(Killed):
        await manager.continue_(asked.thread_id, "yes")
    desk.dies = None
    turn = await manager.continue_(asked.thread_id, "no, stop")
    assert (turn.kind, turn.call_state) == ("report", None)
    assert "Nothing was ordered" in turn.text
    assert await redis.zcard(keys.QUEUE) == 0
    assert await redis.zcard(keys.state("CANCELLED")) == 1, "held back, should it still come"


async def test_a_no_after_a_yes_that_was_cut_off_with_the_order_in_the_store_takes_it_back(
    manager: WorkflowManager, desk: FragileDesk
):
    asked = await manager.start(PIZZA, "local")
    desk.dies = "after"
    with pytest.raises(Killed):
        await manager.continue_(asked.thread_id, "yes")
    desk.dies = None
    turn = await manager.continue_(asked.thread_id, "no")
    assert (turn.kind, turn.call_state) == ("report", "CANCELLED")


async def test_a_saved_yes_is_not_swallowed_by_a_no_that_came_after_a_crash(
    manager: WorkflowManager, redis: Redis, monkeypatch: pytest.MonkeyPatch
):
    # confirm_task ends early, the yes being saved: LangGraph shows the interrupt as open, drops the
    # next answer and acts on the yes. The person's last word was no.
    asked = await manager.start(PIZZA, "local")

    def die(_context: object) -> None:
        raise RuntimeError

    with monkeypatch.context() as patch:
        patch.setattr("orchestrator.nodes._valid_from_now", die)
        with pytest.raises(RuntimeError):
            await manager.continue_(asked.thread_id, "yes")
    turn = await manager.continue_(asked.thread_id, "no", asked.reply_to)
    assert turn.kind == "report"
    assert "Nothing was ordered" in turn.text
    assert await redis.zcard(keys.QUEUE) == 0


async def test_a_retried_answer_confirms_nothing_the_person_has_not_seen(
    manager: WorkflowManager, redis: Redis, monkeypatch: pytest.MonkeyPatch
):
    asked = await manager.start("call +1 202 555 0123", "local")
    assert asked.kind == "question"

    def die(*_: object) -> None:
        raise RuntimeError

    with monkeypatch.context() as patch:
        patch.setattr("orchestrator.nodes._understood", die)
        with pytest.raises(RuntimeError):
            await manager.continue_(asked.thread_id, "yes", asked.reply_to)
    turn = await manager.continue_(asked.thread_id, "yes", asked.reply_to)
    assert turn.kind in {"question", "confirmation"}
    assert await redis.zcard(keys.ORDERS) == 0


async def test_of_three_answers_at_once_one_is_taken(
    manager: WorkflowManager, desk: FragileDesk, redis: Redis
):
    asked = await manager.start(PIZZA, "local")
    answers = await asyncio.gather(
        *(manager.continue_(asked.thread_id, "yes", asked.reply_to) for _ in range(3)),
        return_exceptions=True,
    )
    assert [type(answer) for answer in answers].count(Turn) == 1
    assert [type(answer) for answer in answers].count(ThreadBusy) == 2
    assert desk.submits == 1
    assert await redis.zcard(keys.ORDERS) == 1


async def test_an_answer_to_what_is_not_open_any_more_is_refused(
    manager: WorkflowManager, desk: FragileDesk
):
    asked = await manager.start("call my dentist", "local")
    again = await manager.continue_(asked.thread_id, "say hello", asked.reply_to)
    assert again.reply_to != asked.reply_to
    with pytest.raises(StaleReply):
        await manager.continue_(asked.thread_id, "yes", asked.reply_to)
    confirm = await manager.continue_(asked.thread_id, "+1 202 555 0123", again.reply_to)
    await manager.continue_(asked.thread_id, "yes", confirm.reply_to)
    with pytest.raises(StaleReply):
        await manager.continue_(asked.thread_id, "yes", confirm.reply_to)
    assert desk.submits == 1


async def test_an_unknown_conversation_is_refused_and_not_started(manager: WorkflowManager):
    with pytest.raises(UnknownThread):
        await manager.continue_("thr_nobody", "yes")
    assert await manager.look_up("thr_nobody") is None


async def test_the_lock_is_given_back_on_every_way_out(
    manager: WorkflowManager, desk: FragileDesk, redis: Redis
):
    with pytest.raises(UnknownThread):
        await manager.continue_("thr_nobody", "yes")
    asked = await manager.start(PIZZA, "local")
    desk.dies = "before"
    with pytest.raises(Killed):
        await manager.continue_(asked.thread_id, "yes")
    assert [key async for key in redis.scan_iter(match=keys.thread("*"))] == []


async def test_a_lock_outlives_its_time_while_its_holder_lives(
    redis: Redis, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr("orchestrator.thread_lock.LOCK_S", 0.3)
    async with alone(redis, "thr_1"):
        renewed = 0
        left = await redis.pttl(keys.thread("thr_1"))
        async with asyncio.timeout(60):
            while renewed < 4:  # four renewals are longer than one lock
                await asyncio.sleep(0.005)
                now_left = await redis.pttl(keys.thread("thr_1"))
                renewed += now_left > left
                left = now_left
        with pytest.raises(ThreadBusy):
            async with alone(redis, "thr_1"):
                pass


async def test_a_new_task_in_the_same_conversation_is_a_new_order(
    manager: WorkflowManager, ledger: Ledger, register: Register
):
    first = await waiting(manager)
    await place(ledger, first.order_id)
    done = await manager.continue_(first.thread_id, "how is it?", first.reply_to)
    assert (done.kind, done.call_sid) == ("report", "CA1")
    second = await manager.continue_(first.thread_id, SOUP)
    assert second.kind == "confirmation"
    assert second.order_id != first.order_id
    assert (second.call_sid, second.call_state) == (None, None)
    assert second.gathered_details == {"items": "a soup", "whom": "Chez Nous"}
    await manager.continue_(second.thread_id, "yes", second.reply_to)
    order = await register.body(str(second.order_id))
    assert order is not None
    assert order.target_phone_number == "+14155550100"


async def test_asking_after_the_report_is_no_new_task_and_tells_what_became_known_since(
    manager: WorkflowManager, ledger: Ledger
):
    turn = await waiting(manager)
    token = await send(ledger, turn.order_id)
    await ledger.settle(str(turn.order_id), token, LOST, evidence={}, by="w1")
    told = await manager.continue_(turn.thread_id, "how is it?")
    assert (told.kind, told.call_state) == ("report", "IN_DOUBT")
    await ledger.resolve(str(turn.order_id), call_sid="CA7", by="a person", why="asked the carrier")
    told = await manager.continue_(turn.thread_id, "how is it?")
    assert (told.call_state, told.call_sid, told.order_id) == ("PLACED", "CA7", turn.order_id)
    seen = await manager.look_up(turn.thread_id)
    assert seen == told


async def test_looking_up_a_waiting_conversation_finds_the_answer_and_moves_it_on(
    manager: WorkflowManager, ledger: Ledger
):
    turn = await waiting(manager)
    assert await manager.look_up(turn.thread_id) == turn
    await place(ledger, turn.order_id)
    for _ in range(2):
        seen = await manager.look_up(turn.thread_id)
        assert seen is not None
        assert (seen.kind, seen.call_state, seen.call_sid) == ("report", "PLACED", "CA1")


async def test_cancel_while_waiting_takes_the_order_back(manager: WorkflowManager, ledger: Ledger):
    turn = await waiting(manager)
    told = await manager.continue_(turn.thread_id, "cancel", turn.reply_to)
    assert (told.kind, told.call_state) == ("report", "CANCELLED")
    progress = await ledger.progress(str(turn.order_id))
    assert progress is not None
    assert progress.state is OrderState.CANCELLED


async def test_cancel_when_it_is_too_late_says_so_and_waits_on(
    manager: WorkflowManager, ledger: Ledger
):
    turn = await waiting(manager)
    await send(ledger, turn.order_id)
    told = await manager.continue_(turn.thread_id, "cancel", turn.reply_to)
    assert (told.kind, told.call_state) == ("waiting", "SENDING")
    assert "too late" in told.text


@pytest.mark.parametrize("sent", [False, True], ids=["in time", "too late"])
async def test_cancel_is_heard_while_another_message_waits_for_the_call(
    settings: Settings, ledger: Ledger, redis: Redis, sent: bool
):
    patient = settings.model_copy(update={"await_call_s": 300.0})
    async with open_workflow_manager(patient, ledger, redis) as manager:
        asked = await manager.start(PIZZA, "local")
        yes = asyncio.create_task(manager.continue_(asked.thread_id, "yes", asked.reply_to))

        async def waits() -> bool:
            snapshot, _ = await manager._standing(asked.thread_id)
            return snapshot.next == ("await_call",)

        await eventually(waits)
        token = await send(ledger, asked.order_id) if sent else None
        with pytest.raises(ThreadBusy):
            await manager.continue_(asked.thread_id, "how is it?")
        told = await manager.continue_(asked.thread_id, "cancel", asked.reply_to)
        assert ("too late to take it back" in told.text) == sent
        assert told.call_state == ("SENDING" if sent else "CANCELLED")
        if token is not None:
            placed = Decision(OrderState.PLACED, "placed", "the handler named it", call_sid="CA1")
            await ledger.settle(str(asked.order_id), token, placed, evidence={}, by="w1")
        turn = await asyncio.wait_for(yes, 10)
        assert (turn.kind, turn.call_state) == ("report", "PLACED" if sent else "CANCELLED")


async def test_a_waiting_conversation_is_parked_and_one_that_is_told_is_not(
    manager: WorkflowManager, ledger: Ledger, redis: Redis
):
    turn = await waiting(manager)
    assert await redis.hgetall(keys.PARKED) == {turn.order_id: turn.thread_id}  # type: ignore[misc]
    await manager.continue_(turn.thread_id, "how is it?", turn.reply_to)
    assert await redis.hlen(keys.PARKED) == 1  # type: ignore[misc]
    await place(ledger, turn.order_id)
    await manager.continue_(turn.thread_id, "how is it?")
    assert not await redis.exists(keys.PARKED)


async def test_a_conversation_goes_on_after_the_process_is_gone(
    quick: Settings, ledger: Ledger, redis: Redis
):
    async with open_workflow_manager(quick, ledger, redis) as manager:
        asked = await manager.start("call my dentist", "local")
    async with open_workflow_manager(quick, ledger, redis) as manager:
        assert await manager.look_up(asked.thread_id) == asked
        confirm = await manager.continue_(
            asked.thread_id, "number: +1 202 555 0123\nmessage: I am late", asked.reply_to
        )
    async with open_workflow_manager(quick, ledger, redis) as manager:
        turn = await manager.continue_(asked.thread_id, "yes", confirm.reply_to)
        assert turn.order_id == asked.order_id
    await place(ledger, turn.order_id)
    async with open_workflow_manager(quick, ledger, redis) as manager:
        told = await manager.continue_(asked.thread_id, "how is it?", turn.reply_to)
        assert (told.kind, told.call_sid) == ("report", "CA1")


@pytest.fixture
def logs() -> Iterator[None]:
    """Let one test log everything to stderr, and put logging back as it was."""
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    configure_logging("DEBUG", "json")
    yield
    root.handlers[:] = handlers
    root.setLevel(level)
    structlog.reset_defaults()


async def test_no_number_name_or_instruction_is_logged(
    logs: None, quick: Settings, ledger: Ledger, redis: Redis, capsys: pytest.CaptureFixture[str]
):
    configure_logging("DEBUG", "json")  # onto the stderr that is captured now
    async with open_workflow_manager(quick, ledger, redis) as manager:
        asked = await manager.start(PIZZA, "local", "Alice Stone")
        turn = await manager.continue_(asked.thread_id, "yes", asked.reply_to)
        await manager.continue_(asked.thread_id, "cancel", turn.reply_to)
    logged = capsys.readouterr().err
    events: list[dict[str, Any]] = [json.loads(line) for line in logged.splitlines()]
    assert {"order.handed_in", "conversation.turn", "order.cancel_asked"} <= {
        event["event"] for event in events
    }
    for private in ("2025550123", "202 555", "Alice", "pepperoni", "Luigi"):
        assert private not in logged
