"""The steps of the conversation. None of them calls anyone; one hands in an order.

A step may run again after a crash, from its first line. What must not change then, the order's id
and the moment of the confirmation, was saved by a step before.
"""

from dataclasses import dataclass
from datetime import timedelta
from typing import Final

import structlog
from langchain_core.messages import AIMessage, HumanMessage
from langgraph.runtime import Runtime
from langgraph.types import interrupt
from pydantic import ValidationError

from orchestrator import sentences, words
from orchestrator.analyst import Analyst, Told
from orchestrator.kinds_of_task import NAME
from orchestrator.state import Conversation
from shared.clock import Clock
from shared.desk import AnswerDesk, OrderDesk, Submission
from shared.order import CallOrder, complaints, mint_order_id

_LATER_LOOK_S: Final = 2.0
"""A person who asks how it stands wants to hear it now; only the first look waits longer."""

_log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class Context:
    """What the steps are given. Times are seconds."""

    desk: OrderDesk
    answers: AnswerDesk
    analyst: Analyst
    clock: Clock
    await_call_s: float
    order_lifetime_s: float


async def analyze_task(state: Conversation, runtime: Runtime[Context]) -> Conversation:
    """Understand what was said, and give the task the id that its one order will have."""
    order_id = state["order_id"] or mint_order_id()
    return await _understood({**state, "order_id": order_id, "decision": None}, (), runtime.context)


async def ask_for_details(state: Conversation, runtime: Runtime[Context]) -> Conversation:
    """Ask for all that is missing; the person's next words answer it."""
    answer = str(interrupt({"kind": "question", "text": state["question"]}))
    exchanged = _exchanged(state["question"], answer)
    if words.says_stop(answer):
        return {**exchanged, "decision": "no"}
    heard: Conversation = {**state, "said": [*state["said"], answer]}
    asked = tuple(state["missing_details"])
    return {**await _understood(heard, asked, runtime.context), **exchanged}


async def confirm_task(state: Conversation, runtime: Runtime[Context]) -> Conversation:
    """Show whom we would call and what for; nothing but a plain yes hands the order in."""
    text = sentences.confirmation(state)
    answer = str(interrupt({"kind": "confirmation", "text": text}))
    exchanged = _exchanged(text, answer)
    if words.says_yes(answer):
        return {**exchanged, "decision": "yes", **_valid_from_now(runtime.context)}
    if words.says_no(answer):
        return {**exchanged, "decision": "no"}
    return {**exchanged, "decision": "change", "said": [*state["said"], answer]}


async def trigger_call(state: Conversation, runtime: Runtime[Context]) -> Conversation:
    """Hand the confirmed order in, and nothing else. Run again, it hands in the same order.

    Raises:
        OrderNotAccepted: the store did not take it; this step runs again with the next message.
    """
    try:
        order = call_order(state)
    except ValidationError as error:
        return {"decision": "invalid", "notice": sentences.not_an_order(complaints(error))}
    became = await runtime.context.desk.submit(order)
    _log.info("order.handed_in", order_id=order.order_id, became=str(became))
    if became is Submission.CONFLICT:
        return {"decision": "invalid", "notice": sentences.ANOTHER_WISH}
    return {"handed_in": True}


async def await_call(state: Conversation, runtime: Runtime[Context]) -> Conversation:
    """Look for the answer; where none came, wait for the person to ask, however long that takes."""
    context, order_id = runtime.context, str(state["order_id"])
    now: Conversation = {"looked": True, "notice": ""}
    patience_s = context.await_call_s
    if state["looked"]:
        text = sentences.still_waiting(state)
        facts = {"order_id": order_id, "state": state["call_state"]}
        word = str(interrupt({"kind": "waiting", "text": text, **facts}))
        now |= _exchanged(text, word)
        patience_s = min(patience_s, _LATER_LOOK_S)
        if words.says_no(word):
            became = await context.desk.cancel(
                order_id, by=state["owner"], why="the person took it back"
            )
            _log.info("order.cancel_asked", order_id=order_id, became=str(became))
            now["notice"] = sentences.taken_back(became)
    result = await context.answers.wait(order_id, patience_s)
    if result is not None:  # report_result reads the rest
        return {**now, "call_state": str(result.state), "call_sid": result.call_sid}
    progress = await context.desk.progress(order_id)
    if progress is None:
        notice = f"{now['notice']}{sentences.forgotten(order_id)}"
        return {**now, "handed_in": False, "notice": notice}
    return {**now, "call_state": str(progress.state), "call_sid": progress.call_sid}


async def report_result(state: Conversation, runtime: Runtime[Context]) -> Conversation:
    """Say in a plain sentence what became of the task, as it stands at this moment."""
    if state["decision"] == "no":
        return {"messages": [AIMessage(sentences.NOTHING_ORDERED)]}
    order_id = str(state["order_id"])
    progress = await runtime.context.desk.progress(order_id) if state["handed_in"] else None
    if progress is None:
        told = state["notice"].strip() or sentences.forgotten(order_id)
        return {"messages": [AIMessage(told)]}
    return {
        "messages": [AIMessage(f"{state['notice']}{sentences.report(progress)}")],
        "call_state": str(progress.state),
        "call_sid": progress.call_sid,
    }


def call_order(state: Conversation) -> CallOrder:
    """Return the order that `state` describes: the same one, however often it is asked.

    Raises:
        ValidationError: it describes none.
    """
    details = state["gathered_details"]
    return CallOrder.model_validate(
        {
            "order_id": state["order_id"],
            "target_phone_number": state["target_phone_number"],
            "final_instructions": state["final_instructions"],
            "gathered_details": details,
            "user_name": state["user_name"] or details.get(NAME.name),
            "owner": state["owner"],
            "thread_id": state["thread_id"],
            "created_at": state["order_confirmed_at"],
            "expires_at": state["order_expires_at"],
        }
    )


async def _understood(
    state: Conversation, asked: tuple[str, ...], context: Context
) -> Conversation:
    """Return what is known after the last words; an impossible order is found out here already."""
    told = Told(
        said=tuple(state["said"]),
        asked=asked,
        gathered=state["gathered_details"],
        number=state["target_phone_number"],
        user_name=state["user_name"],
    )
    analysis = await context.analyst.analyze(told)
    understood: Conversation = {
        "said": state["said"],
        "order_id": state["order_id"],
        "decision": state["decision"],
        "required_details": list(analysis.required_details),
        "gathered_details": dict(analysis.gathered_details),
        "missing_details": list(analysis.missing_details),
        "question": analysis.question,
        "target_phone_number": analysis.target_phone_number,
        "final_instructions": analysis.final_instructions,
    }
    if not analysis.missing_details:
        try:
            call_order({**state, **understood, **_valid_from_now(context)})
        except ValidationError as error:
            understood["decision"] = "invalid"
            understood["notice"] = sentences.not_an_order(complaints(error))
    return understood


def _valid_from_now(context: Context) -> Conversation:
    now = context.clock.now()
    expires = now + timedelta(seconds=context.order_lifetime_s)
    return {"order_confirmed_at": now.isoformat(), "order_expires_at": expires.isoformat()}


def _exchanged(text: str, answer: str) -> Conversation:
    """Return both sides' words as messages; a mere look (no words) is no message."""
    return {"messages": [AIMessage(text), HumanMessage(answer)]} if answer else {}
