"""The graph by itself: a desk that remembers, checkpoints in memory, no store."""

from dataclasses import dataclass, field, replace
from typing import Any

import pytest
from langgraph.checkpoint.memory import InMemorySaver
from langgraph.types import Command

from orchestrator import nodes
from orchestrator.analyst import RuleAnalyst
from orchestrator.graph import build_graph
from orchestrator.nodes import Context
from orchestrator.state import new_task
from shared.clock import SYSTEM_CLOCK
from shared.desk import Cancellation, OrderNotAccepted, Submission
from shared.lifecycle import OrderState
from shared.order import CallOrder
from shared.progress import OrderProgress, Result

PIZZA = "Order a large pepperoni pizza from Luigi's at +1 202 555 0123"
CONFIG: Any = {"configurable": {"thread_id": "thr_1"}}


@dataclass
class Desk:
    """Keeps what it is handed; its orders move when the test says so."""

    orders: dict[str, CallOrder] = field(default_factory=dict)
    states: dict[str, OrderState] = field(default_factory=dict)
    asked: int = 0
    fails_after_taking: bool = False
    answers: Submission | None = None
    ends_as: OrderState | None = None
    placed_while_waiting: bool = False
    looks: int = 0
    """How often its progress was read."""
    waits: list[float] = field(default_factory=list)
    """How patiently each look was."""

    async def submit(self, order: CallOrder) -> Submission:
        self.asked += 1
        if self.answers is not None:
            return self.answers
        known = order.order_id in self.orders
        self.orders.setdefault(order.order_id, order)
        self.states.setdefault(order.order_id, self.ends_as or OrderState.QUEUED)
        if self.fails_after_taking:
            raise OrderNotAccepted("the store does not answer", certain=False)
        return Submission.ALREADY_QUEUED if known else Submission.ACCEPTED

    async def progress(self, order_id: str) -> OrderProgress | None:
        self.looks += 1
        order = self.orders.get(order_id)
        if order is None:
            return None
        state = self.states[order_id]
        return OrderProgress(
            order_id=order_id,
            state=state,
            call_sid="CA1" if state is OrderState.PLACED else None,
            reason="because",
            unanswered=int(state is OrderState.IN_DOUBT),
            owner=order.owner,
            created_at=order.created_at,
            moved_at=order.created_at,
            expires_at=order.expires_at,
        )

    async def wait(self, order_id: str, within_s: float) -> Result | None:
        self.waits.append(within_s)
        if self.placed_while_waiting and within_s > 0:
            self.states[order_id] = OrderState.PLACED
        return await self.result(order_id)

    async def result(self, order_id: str) -> Result | None:
        state = self.states[order_id]
        if state in {OrderState.QUEUED, OrderState.SENDING, OrderState.RETRYABLE}:
            return None
        call_sid = "CA1" if state is OrderState.PLACED else None
        return Result(order_id=order_id, state=state, call_sid=call_sid, rule="r", reason="because")

    async def cancel(
        self,
        order_id: str,
        *,
        by: str,  # noqa: ARG002
        why: str,  # noqa: ARG002
        even_if_unknown: bool = False,  # noqa: ARG002
    ) -> Cancellation:
        match self.states.get(order_id):
            case None:
                return Cancellation.UNKNOWN
            case OrderState.QUEUED:
                self.states[order_id] = OrderState.CANCELLED
                return Cancellation.CANCELLED
            case OrderState.SENDING:
                return Cancellation.SENDING
            case OrderState.IN_DOUBT:
                return Cancellation.IN_DOUBT
            case _:
                return Cancellation.TOO_LATE


class Talk:
    """One conversation with the bare graph."""

    def __init__(self, desk: Desk) -> None:
        self.desk = desk
        self.graph = build_graph(InMemorySaver())
        self.context = Context(
            desk=desk,
            answers=desk,
            analyst=RuleAnalyst("US"),
            clock=SYSTEM_CLOCK,
            await_call_s=0.0,
            order_lifetime_s=3600.0,
        )
        self.state: dict[str, Any] = {}

    async def begin(self, task: str) -> str:
        about = {"thread_id": "thr_1", "owner": "local", "user_name": None}
        return await self._run({**new_task(task), **about, "messages": []})

    async def say(self, words: str) -> str:
        return await self._run(Command(resume=words))

    async def go_on(self) -> str:
        return await self._run(None)

    async def _run(self, given: Any) -> str:
        self.state = await self.graph.ainvoke(
            given, CONFIG, context=self.context, durability="sync"
        )
        opened = self.state.get("__interrupt__")
        return str(opened[0].value["text"] if opened else self.state["messages"][-1].content)

    @property
    def open(self) -> Any:
        opened = self.state.get("__interrupt__")
        return opened[0].value["kind"] if opened else None


@pytest.fixture
def desk() -> Desk:
    return Desk()


@pytest.fixture
def talk(desk: Desk) -> Talk:
    return Talk(desk)


def test_the_graph_is_the_drawing():
    graph = build_graph().get_graph()
    steps = {
        "analyze_task",
        "ask_for_details",
        "confirm_task",
        "trigger_call",
        "await_call",
        "report_result",
    }
    assert set(graph.nodes) == steps | {"__start__", "__end__"}
    assert {(edge.source, edge.target) for edge in graph.edges} == {
        ("__start__", "analyze_task"),
        ("analyze_task", "ask_for_details"),
        ("analyze_task", "confirm_task"),
        ("analyze_task", "report_result"),
        ("ask_for_details", "ask_for_details"),
        ("ask_for_details", "confirm_task"),
        ("ask_for_details", "report_result"),
        ("confirm_task", "analyze_task"),
        ("confirm_task", "trigger_call"),
        ("confirm_task", "report_result"),
        ("trigger_call", "await_call"),
        ("trigger_call", "report_result"),
        ("await_call", "await_call"),
        ("await_call", "report_result"),
        ("report_result", "__end__"),
    }


async def test_details_are_asked_for_until_nothing_is_missing(talk: Talk):
    await talk.begin("call my dentist")
    assert talk.open == "question"
    assert talk.state["missing_details"] == ["target_phone_number", "message"]
    await talk.say("I will be late")
    assert (talk.open, talk.state["missing_details"]) == ("question", ["target_phone_number"])
    assert "emergency" in await talk.say("call 911")
    assert talk.open == "question"
    await talk.say("(202) 555-0123")
    assert (talk.open, talk.state["missing_details"]) == ("confirmation", [])
    assert talk.state["gathered_details"]["message"] == "I will be late"
    assert talk.desk.orders == {}


async def test_the_confirmation_shows_whom_the_number_in_full_and_the_instructions(talk: Talk):
    asked = await talk.begin(PIZZA)
    assert "Luigi's" in asked
    assert "+12025550123" in asked
    assert talk.state["final_instructions"] in asked


async def test_the_id_stands_before_the_confirmation_and_a_yes_hands_in_that_order(talk: Talk):
    talk.desk.ends_as = OrderState.PLACED
    await talk.begin(PIZZA)
    minted = talk.state["order_id"]
    told = await talk.say("yes")
    [order] = talk.desk.orders.values()
    assert order.order_id == minted
    assert order.target_phone_number == "+12025550123"
    assert order.thread_id == "thr_1"
    assert (talk.state["call_state"], talk.state["call_sid"]) == ("PLACED", "CA1")
    assert "PLACED" in told
    assert "CA1" in told


async def test_a_no_orders_nothing(talk: Talk):
    await talk.begin(PIZZA)
    assert "Nothing was ordered" in await talk.say("no")
    assert talk.open is None
    assert talk.desk.orders == {}


async def test_stop_while_being_asked_orders_nothing(talk: Talk):
    await talk.begin("call my dentist")
    assert "Nothing was ordered" in await talk.say("stop")
    assert talk.open is None


async def test_a_correction_is_confirmed_again_under_the_same_id(talk: Talk):
    await talk.begin(PIZZA)
    minted = talk.state["order_id"]
    assert "no olives" in await talk.say("yes, but no olives please")
    assert talk.open == "confirmation"
    assert talk.desk.orders == {}
    await talk.say("yes")
    [order] = talk.desk.orders.values()
    assert order.order_id == minted
    assert "no olives" in order.final_instructions


async def test_killed_inside_trigger_call_it_runs_again_and_hands_in_the_same_order(talk: Talk):
    await talk.begin(PIZZA)
    talk.desk.fails_after_taking = True
    with pytest.raises(OrderNotAccepted):
        await talk.say("yes")
    talk.desk.fails_after_taking = False
    before = dict(talk.desk.orders)
    await talk.go_on()
    assert talk.desk.asked == 2
    assert len(talk.desk.orders) == 1
    assert talk.desk.orders == before
    assert talk.open == "waiting"


async def test_an_id_that_belongs_to_another_wish_is_reported_and_not_waited_for(talk: Talk):
    talk.desk.answers = Submission.CONFLICT
    await talk.begin(PIZZA)
    assert "belongs to another wish" in await talk.say("yes")
    assert talk.open is None


async def test_a_task_that_can_be_no_order_is_refused_before_it_is_confirmed(talk: Talk):
    told = await talk.begin(f"{PIZZA}\n{'x' * 9_000}")
    assert "final_instructions" in told
    assert "8000 characters" in told
    assert talk.open is None


async def test_a_control_character_is_named_and_nothing_is_ordered(talk: Talk):
    told = await talk.begin(f"{PIZZA}\x00")
    assert "control characters" in told
    assert talk.desk.orders == {}


async def test_waiting_is_open_until_somebody_looks_and_there_is_an_answer(talk: Talk):
    await talk.begin(PIZZA)
    assert "QUEUED" in await talk.say("yes")
    assert talk.open == "waiting"
    await talk.say("how is it?")
    assert talk.open == "waiting"
    talk.desk.states[talk.state["order_id"]] = OrderState.PLACED
    assert "CA1" in await talk.say("and now?")
    assert talk.open is None
    assert talk.desk.asked == 1


async def test_a_doubt_is_reported_as_one(talk: Talk):
    talk.desk.ends_as = OrderState.IN_DOUBT
    await talk.begin(PIZZA)
    told = await talk.say("yes")
    assert "may have rung" in told
    assert "not simply sent again" in told
    assert talk.state["call_state"] == "IN_DOUBT"


@pytest.mark.parametrize(
    ("state", "told", "still_open"),
    [
        (OrderState.QUEUED, "cancelled before it was sent", None),
        (OrderState.SENDING, "too late to take it back", "waiting"),
        (OrderState.IN_DOUBT, "may have rung", None),
        (OrderState.PLACED, "too late to take it back", None),
    ],
)
async def test_cancel_while_waiting_is_answered_truthfully(talk: Talk, state, told, still_open):
    await talk.begin(PIZZA)
    await talk.say("yes")
    talk.desk.states[talk.state["order_id"]] = state
    assert told in await talk.say("cancel")
    assert talk.open == still_open


async def test_an_order_the_store_lost_does_not_hold_the_conversation(talk: Talk):
    await talk.begin(PIZZA)
    await talk.say("yes")
    talk.desk.orders.clear()
    assert "does not know order" in await talk.say("how is it?")
    assert talk.open is None


async def test_the_first_look_waits_with_the_whole_patience_and_a_later_one_briefly(talk: Talk):
    talk.context = replace(talk.context, await_call_s=30.0)
    await talk.begin(PIZZA)
    await talk.say("yes")
    assert talk.open == "waiting"
    talk.desk.placed_while_waiting = True
    assert "CA1" in await talk.say("how is it?")
    assert talk.desk.waits == [30.0, 2.0]


async def test_an_answer_is_read_once_and_reported_as_it_stands_at_that_moment(talk: Talk):
    talk.desk.ends_as = OrderState.IN_DOUBT
    answered = talk.desk.wait

    async def cleared_right_behind(order_id: str, within_s: float) -> Result | None:
        result = await answered(order_id, within_s)
        talk.desk.states[order_id] = OrderState.PLACED
        return result

    talk.desk.wait = cleared_right_behind  # type: ignore[method-assign]
    await talk.begin(PIZZA)
    assert "Order ord_" in await talk.say("yes")
    assert (talk.state["call_state"], talk.state["call_sid"]) == ("PLACED", "CA1")
    assert talk.desk.looks == 1


async def test_an_answer_whose_order_the_store_forgot_is_no_empty_report(talk: Talk):
    talk.desk.ends_as = OrderState.PLACED
    answered = talk.desk.wait

    async def forgotten_right_behind(order_id: str, within_s: float) -> Result | None:
        result = await answered(order_id, within_s)
        talk.desk.orders.clear()
        return result

    talk.desk.wait = forgotten_right_behind  # type: ignore[method-assign]
    await talk.begin(PIZZA)
    assert "does not know order" in await talk.say("yes")


def test_nothing_but_the_desk_is_given_to_the_step_that_hands_in():
    assert not hasattr(nodes, "httpx")
    assert set(Context.__dataclass_fields__) == {
        "desk",
        "answers",
        "analyst",
        "clock",
        "await_call_s",
        "order_lifetime_s",
    }
