"""What a conversation remembers. It is saved after every step, so it holds plain values only."""

from typing import Annotated, Literal, TypedDict

from langchain_core.messages import AnyMessage
from langgraph.graph.message import add_messages

Decision = Literal["yes", "no", "change", "invalid"]


class Conversation(TypedDict, total=False):
    """One conversation. All but the messages belongs to the task at hand; a new one starts anew."""

    messages: Annotated[list[AnyMessage], add_messages]
    """Everything that was said, by both sides, over all tasks of this conversation."""
    thread_id: str
    """Which conversation this is."""
    owner: str
    """Whose conversation it is: the account, not the person's name."""
    user_name: str | None
    """On whose behalf is called, if we know."""
    said: list[str]
    """What the person said for this task: the task, answers and corrections, in order."""
    task_description: str
    """The task in the person's own words."""
    required_details: list[str]
    """The details a task of this kind needs, by name."""
    gathered_details: dict[str, str]
    """The details the person told us."""
    missing_details: list[str]
    """The required details that are not known yet."""
    question: str
    """What to ask for next; empty if nothing is missing."""
    final_instructions: str
    """What the voice agent is to do on the line."""
    target_phone_number: str | None
    """Whom to call, E.164."""
    order_id: str | None
    """Minted before the confirmation, kept while the task is corrected, never used for another."""
    decision: Decision | None
    """What became of the confirmation; `invalid` if there was no order to confirm."""
    order_confirmed_at: str | None
    """When the person said yes, ISO 8601: a node that runs again hands in the very same order."""
    order_expires_at: str | None
    """After this moment, ISO 8601, the call is not begun any more."""
    handed_in: bool
    """Whether the store took the order in and, as far as we know, still has it."""
    looked: bool
    """Whether this task waited for its call once, so that the person was told to ask again."""
    notice: str
    """What the person should be told with the next words about the order."""
    call_sid: str | None
    """The carrier's name for the call, once it is placed."""
    call_state: str | None
    """The order's state when it was last looked at; None before it is handed in."""


def new_task(message: str) -> Conversation:
    """Return what a task starts with: nothing of any task before it, least of all its order id."""
    return {
        "said": [message],
        "task_description": message,
        "required_details": [],
        "gathered_details": {},
        "missing_details": [],
        "question": "",
        "final_instructions": "",
        "target_phone_number": None,
        "order_id": None,
        "decision": None,
        "order_confirmed_at": None,
        "order_expires_at": None,
        "handed_in": False,
        "looked": False,
        "notice": "",
        "call_sid": None,
        "call_state": None,
    }
