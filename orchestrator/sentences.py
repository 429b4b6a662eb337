"""What the person is told, in plain sentences. Pure."""

from typing import Final, assert_never

from orchestrator.state import Conversation
from shared.desk import Cancellation
from shared.lifecycle import OrderState
from shared.progress import OrderProgress, did_it_ring

NOTHING_ORDERED: Final = "Nothing was ordered, and nobody is called."
ANOTHER_WISH: Final = "Nothing was ordered: this order's id belongs to another wish."
IN_BETWEEN: Final = (
    "The last step of this conversation is not finished: it is still at work, or was cut off. "
    "Nothing is lost; send any message to go on."
)


def confirmation(state: Conversation) -> str:
    """Return what is asked before anybody is called: whom, the number in full, the instructions."""
    whom = state["gathered_details"].get("whom")
    number = state["target_phone_number"]
    return (
        f"I would call {f'{whom} at {number}' if whom else number} with these instructions:\n"
        f"{state['final_instructions']}\n"
        "Shall I? Say yes, no, or what to change."
    )


def still_waiting(state: Conversation) -> str:
    """Return what is said of an order that has no answer yet."""
    return (
        f"{state['notice']}Order {state['order_id']} is {state['call_state']}; there is no answer "
        "yet. Ask again at any time, or say cancel to take it back."
    )


def forgotten(order_id: str) -> str:
    """Return what is said of an order that was handed in and is not in the store any more."""
    return f"The store does not know order {order_id} any more."


def report(progress: OrderProgress) -> str:
    """Return what became of an order: whether it rang, its state, the call, and why."""
    call = f", call {progress.call_sid}" if progress.call_sid else ""
    why = f" Reason: {progress.reason}." if progress.reason else ""
    return (
        f"Did it ring? {did_it_ring(progress)} "
        f"Order {progress.order_id} is {progress.state}{call}.{why}{_what_next(progress)}"
    )


def not_an_order(faults: list[dict[str, str]]) -> str:
    """Return why a task cannot be ordered: each field and the rule it breaks."""
    listed = "; ".join(f"{fault['field']}: {fault['rule']}" for fault in faults)
    return f"Nothing was ordered, because this cannot be: {listed}."


def taken_back(became: Cancellation) -> str:
    """Return what came of a wish to cancel, where the order's own report does not say it."""
    match became:
        case Cancellation.CANCELLED:
            return ""
        case Cancellation.SENDING:
            return "It is too late to take it back: it is with the call handler now. "
        case Cancellation.IN_DOUBT:
            return "It cannot be taken back, since it may have rung; it is not simply sent again. "
        case Cancellation.TOO_LATE:
            return "It was too late to take it back: it had ended already. "
        case Cancellation.UNKNOWN:
            return "There was nothing to take back. "
        case _:
            assert_never(became)


def _what_next(progress: OrderProgress) -> str:
    match progress.state:
        case OrderState.IN_DOUBT:
            return (
                " It is not simply sent again. A person on duty, or the call handler if it can be "
                "asked, will clear it up; ask again under the order's id."
            )
        case OrderState.DEAD:
            return " The order is kept; a person may send it again."
        case _:
            return ""
