"""Which step follows which. Pure functions of what the conversation remembers."""

from typing import Literal

from orchestrator.state import Conversation
from shared.lifecycle import ENDED, OrderState


def after_understanding(
    state: Conversation,
) -> Literal["ask_for_details", "confirm_task", "report_result"]:
    """Ask until nothing is missing, then have it confirmed."""
    if state["decision"] in {"no", "invalid"}:
        return "report_result"
    return "ask_for_details" if state["missing_details"] else "confirm_task"


def after_confirmation(
    state: Conversation,
) -> Literal["trigger_call", "analyze_task", "report_result"]:
    """Hand it in after a yes, understand a correction, let a no rest."""
    if state["decision"] == "yes":
        return "trigger_call"
    return "analyze_task" if state["decision"] == "change" else "report_result"


def after_handing_in(state: Conversation) -> Literal["await_call", "report_result"]:
    """Wait for the call of an order that was taken in."""
    return "await_call" if state["handed_in"] else "report_result"


def after_looking(state: Conversation) -> Literal["await_call", "report_result"]:
    """Report what is an answer: an end, or an honest doubt. Wait on for anything else."""
    answered = state["call_state"] in {*ENDED, OrderState.IN_DOUBT}
    return "report_result" if answered or not state["handed_in"] else "await_call"
